"""Values of the optimizer argument are accepted, or refused with a correction."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.engine import TrainConfig, distill
from limbeck.errors import LimbeckError, UnknownNameError
from limbeck.functional import cross_entropy
from limbeck.losses import Loss
from limbeck.recipe import Optimizer, Stage
from limbeck.recipe.optimizer import check_optimizer

STAGE = Stage(Loss(cross_entropy), epochs=1)
DATA = (torch.zeros(4, 3), torch.arange(4) % 2)


@pytest.mark.parametrize("argument", ["lr", "warmup", "decay", "clip", "options"])
def test_what_belongs_to_the_optimizer_says_where_it_goes(argument):
    with pytest.raises(UnknownNameError, match=rf"{argument}'.*Type optimizer=Optimizer\({argument}=\.\.\.\)"):
        distill(nn.Linear(3, 2), STAGE, DATA, **{argument: 0.1})


WRONG = [
    (
        lambda: torch.optim.Adam(nn.Linear(3, 2).parameters(), lr=0.02),
        r"torch\.optim\.Adam that is made.*Optimizer\('adam', lr=0\.02\).*lambda parameters: torch\.optim\.Adam",
    ),
    (
        lambda: torch.optim.Adagrad(nn.Linear(3, 2).parameters()),
        r"student\. Type optimizer=Optimizer\(lambda parameters: torch\.optim\.Adagrad",
    ),
    (lambda: torch.optim.SGD, r"a function, SGD; type optimizer=Optimizer\(SGD\)"),
    (lambda: "adam", r"Optimizer\('adam', lr=0\.001\)"),
    (lambda: 0.1, r"a float; type optimizer=Optimizer\("),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("made", "sentence"), WRONG)
def test_what_is_no_optimizer_is_refused_with_the_line_to_type(made, sentence):
    with pytest.raises(LimbeckError, match=sentence):
        check_optimizer(made())
    with pytest.raises(LimbeckError, match=sentence):
        distill(nn.Linear(3, 2), STAGE, DATA, optimizer=made())
    with pytest.raises(LimbeckError, match=sentence):
        Stage(Loss(cross_entropy), optimizer=made())


def test_the_line_to_type_works():
    made = Optimizer(lambda parameters: torch.optim.Adam(parameters, lr=0.02))
    assert distill(nn.Linear(3, 2), STAGE, DATA, optimizer=made).finish().finished
    assert TrainConfig(optimizer=Optimizer("adam", lr=0.02)).optimizer.lr == 0.02
