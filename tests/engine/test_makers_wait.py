"""Models of a recipe are made only when a stage names them."""

from __future__ import annotations

import copy

import torch
from torch import nn

from limbeck.engine import distill
from limbeck.functional import cross_entropy
from limbeck.losses import Loss
from limbeck.recipe import Recipe, Stage


def test_a_copy_of_a_trained_student_is_a_copy_of_the_trained_one():
    torch.manual_seed(0)
    student = nn.Linear(3, 2)
    begun = student.weight.detach().clone()
    seen = []

    def made(models):
        seen.append(models["student"].weight.detach().clone())
        return copy.deepcopy(models["student"])

    recipe = Recipe(
        Stage(Loss(cross_entropy), epochs=1),
        Stage(Loss(cross_entropy), trains="second", epochs=1),
        makes={"second": made},
    )
    distill(student, recipe, (torch.randn(8, 3), torch.arange(8) % 2)).finish()
    assert len(seen) == 1
    assert torch.equal(seen[0], student.weight)
    assert not torch.equal(seen[0], begun)
