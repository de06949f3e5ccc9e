"""Cross-fitting: every example is labeled by exactly one teacher that never saw it, whatever the method."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.engine import distill
from limbeck.errors import ArgumentError, LimbeckError
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
