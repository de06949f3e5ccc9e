"""A student with an unusual output learns as one with a plain output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.stories import make_loader, network, weights
from limbeck.engine import TrainConfig, distill
from limbeck.errors import LimbeckError, MissingOutputError, UnknownNameError
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.losses import Loss
from limbeck.methods import make
from limbeck.metrics import predict
from limbeck.models import reinitialize
from limbeck.recipe import Recipe, Stage
from limbeck.teachers import ModelTeacher


class Strange(nn.Module):
    """A network whose logits lie where nobody looks for them."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        return {"scores": {"main": self.inner(x)}}


def main_scores(output: Any) -> Tensor:
    return output["scores"]["main"]


def taught(teacher: Any = None) -> Stage:
    teacher = network(hidden=6, seed=7) if teacher is None else teacher
    return Stage(Loss(cross_entropy) + Loss(kl_divergence), teacher=teacher, epochs=2)


def test_a_strange_student_learns_as_a_plain_one():
    plain, strange = network(), Strange(network())
    distill(plain, taught(), make_loader()).finish()
    distill(strange, taught(), make_loader(), adaptor=main_scores).finish()
    assert torch.equal(weights(plain), weights(strange))


def test_an_adaptor_may_give_a_dict_with_logits():
    plain, strange = network(), Strange(network())
    distill(plain, taught(), make_loader()).finish()
    distill(strange, taught(), make_loader(), adaptor=lambda out: {"logits": main_scores(out)}).finish()
    assert torch.equal(weights(plain), weights(strange))


@pytest.mark.parametrize(
    "recipe",
    [
        lambda: make("mutual", epochs=1),
        lambda: make("mean_teacher", decay=0.9, epochs=1),
        lambda: make("born_again", teacher=network(hidden=6, seed=7), generations=2, epochs=1),
        lambda: taught() >> taught("student"),
    ],
    ids=["mutual", "mean_teacher", "born_again", "own past"],
)
def test_every_model_of_the_run_is_read_through_it(recipe):
    plain, strange = network(dropout=0.2), Strange(network(dropout=0.2))
    runs = [distill(plain, recipe(), make_loader()), distill(strange, recipe(), make_loader(), adaptor=main_scores)]
    first, second = (weights(run.finish().student) for run in runs)
    assert torch.equal(first, second)


def test_each_model_may_have_its_own():
    plain = {"student": network(), "peer": network(seed=1)}
    mixed = {"student": Strange(network()), "peer": network(seed=1)}
    distill(plain, make("mutual", epochs=1), make_loader()).finish()
    distill(mixed, make("mutual", epochs=1), make_loader(), adaptor={"student": main_scores}).finish()
    assert torch.equal(weights(*plain.values()), weights(*mixed.values()))


def test_branches_know_it_too():
    models = {name: Strange(network(seed=seed)) for seed, name in enumerate("ab")}
    recipe = Stage(Loss(cross_entropy), trains="a", epochs=1) | Stage(Loss(cross_entropy), trains="b", epochs=1)
    before = weights(*models.values())
    distill(models, recipe, make_loader(), adaptor=main_scores, workers=1).finish()
    assert not torch.equal(before, weights(*models.values()))


def test_without_one_the_sentence_explains_what_to_type():
    with pytest.raises(MissingOutputError, match=r"dict with \['scores'\].*distill\(\.\.\., adaptor="):
        distill(Strange(network()), taught(), make_loader()).finish()


def test_one_that_fails_is_reported_in_a_sentence():
    with pytest.raises(MissingOutputError, match=r"adaptor.*KeyError.*'logit'.*dict with \['scores'\]"):
        distill(Strange(network()), taught(), make_loader(), adaptor=lambda out: out["logit"]).finish()


def test_one_for_a_model_that_there_is_not():
    with pytest.raises(UnknownNameError, match="Did you mean 'student'"):
        distill(network(), taught(), make_loader(), adaptor={"studnt": main_scores})
    made = Recipe(
        Stage(Loss(cross_entropy), trains="other", epochs=1),
        makes={"other": lambda models: reinitialize(models["student"])},
    )
    distill(Strange(network()), made, make_loader(), adaptor={"other": main_scores}).finish()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_model_made_of_another_is_read_like_that_one(workers):
    for recipe in (make("born_again", teacher=network(seed=7), generations=2), make("mutual")):
        run = distill(
            Strange(network()), recipe, make_loader(), adaptor={"student": main_scores}, epochs=1, workers=workers
        )
        assert run.finish().finished


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.integration)])  # 2: in processes
def test_specialists_are_read_like_their_generalist(workers):
    groups, big = [[0, 1], [1, 2]], Strange(network(seed=7))
    by_itself = make("specialists", teacher=ModelTeacher(big, adaptor=main_scores), groups=groups, soft=0.5)
    assert distill(network(), by_itself, make_loader(), epochs=1, workers=workers).finish().finished
    named = make("specialists", teacher="big", groups=groups, soft=0.5)
    told = {"big": main_scores}
    assert (
        distill({"student": network(), "big": big}, named, make_loader(), adaptor=told, epochs=1, workers=workers)
        .finish()
        .finished
    )


@pytest.mark.usefixtures("unchecked")
def test_one_that_is_no_function():
    with pytest.raises(LimbeckError, match=r"adaptor is a function of a model's output.*'scores'"):
        TrainConfig(adaptor="scores")


def test_its_predictions_are_measured_through_it():
    plain, strange = network(), Strange(network())
    batches = [make_loader().peek()]
    assert torch.equal(predict(plain, batches).student, predict(strange, batches, adaptor=main_scores).student)


def test_a_method_by_name_needs_nothing_else():
    strange = Strange(network())
    recipe = make("hinton", teacher=network(hidden=6, seed=7))
    assert distill(strange, recipe, make_loader(), adaptor=main_scores, epochs=1).finish().finished
