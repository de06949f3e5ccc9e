"""Models that a recipe cannot make or ship are refused early."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.stories import make_loader, network
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy
from limbeck.losses import Loss
from limbeck.methods import make
from limbeck.models import reinitialize
from limbeck.recipe import Recipe, Stage


class Scaled(nn.Module):
    """Its own parameter has no way to begin anew."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.scale = network(), nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.inner(x) * self.scale


@pytest.mark.parametrize(
    ("name", "given"), [("born_again", {"teacher": network(seed=7), "generations": 2}), ("mutual", {})]
)
def test_a_student_that_cannot_be_made_anew_is_refused_when_the_run_is_built(name, given):
    with pytest.raises(LimbeckError, match=r"'scale' belongs to a Scaled.*reset_parameters"):
        distill(Scaled(), make(name, **given), make_loader(), epochs=1)


def test_where_nothing_is_made_of_it_it_is_welcome():
    born = make("born_again", teacher=network(seed=7), generations=1)
    assert distill(Scaled(), born, make_loader(), epochs=1).finish().finished
    pair = {"student": Scaled(), "peer": network()}
    assert distill(pair, make("mutual"), make_loader(), epochs=1).finish().finished


def brings(models):
    stage = Stage(Loss(cross_entropy), trains="heir", epochs=1)
    return Recipe(stage, makes={"heir": lambda known: reinitialize(known["student"])}, ship="heir")


def test_what_a_function_ships_is_reported_outside():
    first = Stage(Loss(cross_entropy), epochs=1)
    with pytest.raises(LimbeckError, match=r"brings\(models\).*ships 'heir'.*Recipe\(\.\.\., brings, ship='heir'\)"):
        distill(network(), Recipe(first, brings), make_loader()).finish()
    run = distill(network(), Recipe(first, brings, ship="heir"), make_loader()).finish()
    assert run.student is run.models["heir"]
