"""Prune, then distill: shares of zeros, masks that stay, and a teacher that is less sure."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.errors import ArgumentError
from limbeck.methods import make
from limbeck.methods.teachers.prune_then_distill import count_zeros, pruning_rounds
from limbeck.testing.law import hooks_in, same_weights, weights
from methods.planted import Planted


@pytest.mark.parametrize(("sparsity", "count"), [(0.36, 2), (0.59, 4), (0.79, 7), (0.01, 1)])
def test_the_number_of_rounds_of_a_share_of_zeros(sparsity, count):
    assert pruning_rounds(sparsity) == count
    nearest = min(range(1, 30), key=lambda r: abs(1 - 0.8**r - sparsity))
    assert count == nearest


@pytest.mark.parametrize("rounds", [1, 3])
def test_the_masks_have_their_share_of_zeros_and_stay_zero_while_the_rest_learns(rounds):
    planted = Planted()
    before = weights(planted.truth)
    run = planted.learn(make("prune_then_distill", teacher=planted.truth, rounds=rounds), epochs=2)
    pruned = run.models["pruned"]
    assert count_zeros(pruned) == pytest.approx(1 - 0.8**rounds, abs=2e-3)
    for name, layer in pruned.named_modules():
        if isinstance(layer, nn.Linear):
            kept = layer.weight != 0
            assert not torch.equal(layer.weight[kept], before[f"{name}.weight"][kept])
    assert not hooks_in(pruned)
    assert same_weights(weights(planted.truth), before)


def test_each_round_is_retrained_with_a_schedule_of_its_own():
    recipe = make("prune_then_distill", teacher=nn.Linear(4, 3), rounds=3, retrain_epochs=5, epochs=2)
    assert [(stage.name, stage.trains, stage.epochs) for stage in recipe.stages()] == [
        ("retraining 1", "pruned", 5), ("retraining 2", "pruned", 5), ("retraining 3", "pruned", 5),
        ("hinton", "student", 2),
    ]  # fmt: skip
    assert "temperature=10.0" in repr(list(recipe.stages())[-1].objective)


def test_what_cannot_be_is_refused_when_it_is_built():
    for wrong in ({"rounds": 0}, {"amount": 0.0}, {"amount": 1.0}, {"method": "supervised"}):
        with pytest.raises(ArgumentError) as error:
            make("prune_then_distill", teacher=nn.Linear(4, 3), **wrong)
        assert error.value.argument == next(iter(wrong))
    with pytest.raises(ArgumentError):
        pruning_rounds(1.0)
