"""What a function in a recipe can read of its run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.data import ArrayDataset, ShuffledLoader
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy
from limbeck.losses import Loss
from limbeck.recipe import Recipe, Stage, run_context

SOURCE = ShuffledLoader(ArrayDataset(torch.randn(12, 4), torch.arange(12) % 3), batch_size=5)


def doubled(batch):
    return 2 * batch.inputs


def test_a_function_is_given_the_run_s_data_and_leaves_its_position():
    seen = []

    def part(models):
        found = run_context(models)
        seen.append((found.loader, found.preprocess, found.device, sum(b.size for b in found.loader.batches(0, 0))))
        return Stage(Loss(cross_entropy), steps=1)

    run = distill(nn.Linear(4, 3), Recipe(part), SOURCE, preprocess=doubled)
    run.finish()
    assert seen == [(SOURCE, doubled, run._fabric.device, 12)]
    assert SOURCE.state_dict() == {"epoch": 0, "batch": 1}


def test_models_that_are_no_run_s_hold_no_data():
    with pytest.raises(LimbeckError, match="a dict of models has none"):
        run_context({"student": nn.Linear(4, 3)})
