"""Cross-fitting: every example is labeled by exactly one teacher that never saw it, whatever the method."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.data import ArrayDataset, ShuffledLoader
from limbeck.engine import distill
from limbeck.errors import ArgumentError, LimbeckError, LimbeckWarning
from limbeck.methods import make
from limbeck.methods.teachers.semiparametric import FoldMasks, assign_folds
from limbeck.testing.law import same_weights, weights
from methods.planted import Planted


def test_each_example_is_labeled_by_the_one_teacher_that_did_not_see_it():
    batch = Batch(torch.zeros(300, 1), id=torch.randperm(5000)[:300])
    own, masks = assign_folds(batch, 4), FoldMasks(4).compute(batch)
    seen = torch.stack([masks[f"fold-{number}"] for number in range(4)])
    assert torch.equal(seen.sum(0), torch.full((300,), 3))
    assert not seen.gather(0, own[None]).any()


def test_with_plain_distillation_it_is_semiparametric_without_a_correction():
    planted = Planted()
    ours = make("cross_fitting", teacher=planted.truth, folds=2, settings={"temperature": 1.0, "weight": 0.5})
    theirs = make("semiparametric", teacher=planted.truth, folds=2, bound=0.0, temperature=1.0, weight=0.5)
    first, second = (planted.learn(recipe, epochs=2) for recipe in (ours, theirs))
    for name in ("fold-0", "fold-1", "student"):
        assert same_weights(weights(first.models[name]), weights(second.models[name]))


def test_any_method_of_logits_can_follow_and_one_of_features_is_refused():
    recipe = make("cross_fitting", teacher=nn.Linear(4, 3), folds=3, method="dist")
    assert [stage.name for stage in recipe.stages()] == ["fold 0", "fold 1", "fold 2", "dist"]
    with pytest.raises(ArgumentError, match="layer1") as error:
        make("cross_fitting", teacher=nn.Linear(4, 3), method="fitnets", settings={"hint": "layer1", "guided": "a"})
    assert error.value.argument == "method"


def test_what_cannot_be_is_refused():
    for folds in (0, 1):
        with pytest.raises(ArgumentError, match="folds"):
            make("cross_fitting", teacher=nn.Linear(4, 3), folds=folds)
    batches = [Batch(torch.zeros(4, 4), labels=torch.zeros(4).long())]
    run = distill(nn.Linear(4, 3), make("cross_fitting", teacher=nn.Linear(4, 3), folds=2), batches, epochs=1)
    with pytest.raises(LimbeckError, match="id"):
        run.finish()


@pytest.mark.parametrize(
    ("labels", "folds", "words"),
    [
        (torch.arange(6) % 2, 10, "of the folds are empty"),
        (torch.tensor([0] * 200 + [1]), 2, "1 classes lie in one fold"),
        (torch.arange(400) % 2, 4, None),
    ],
)
def test_too_few_examples_for_the_folds_are_said(labels, folds, words):
    data = ShuffledLoader(ArrayDataset(torch.randn(len(labels), 4), labels), batch_size=8)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        FoldMasks(folds)(data)
    assert [words in str(one.message) for one in said] == ([True] if words else [])
    assert all(issubclass(one.category, LimbeckWarning) for one in said)
