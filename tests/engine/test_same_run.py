"""A folder is resumed only by the run that started it."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.losses import Loss
from limbeck.recipe import Optimizer, Stage


def begun(out, *, temperature=2.0, scale=1.0, resume=False, **setting):
    """The same run, but for what is changed."""
    torch.manual_seed(0)
    inputs, labels = torch.randn(40, 4), torch.randint(0, 3, (40,))
    teacher, student = nn.Linear(4, 3), nn.Linear(4, 3)
    objective = Loss(cross_entropy) + Loss(kl_divergence, temperature=temperature)
    arguments = {"epochs": 2, "batch_size": 8, "checkpoint_seconds": 0.0, "log_every": 1, **setting}
    return distill(
        student, Stage(objective, teacher=teacher), (inputs * scale, labels), out=out, resume=resume, **arguments
    )


def stopped(out):
    for report in begun(out):
        if report.step == 3:
            break


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"temperature": 3.0}, "recipe.0.objective"),
        ({"optimizer": Optimizer(lr=0.5)}, "setting.optimizer.lr"),
        ({"seed": 1}, "setting.seed"),
        ({"scale": 2.0}, "data"),
    ],
)
def test_what_was_begun_otherwise_is_refused(tmp_path, change, field):
    stopped(tmp_path / "run")
    with pytest.raises(LimbeckError, match=field):
        begun(tmp_path / "run", resume=True, **change)
    assert begun(tmp_path / "run", resume=True).finish().finished


def test_what_changes_nothing_may_change(tmp_path):
    stopped(tmp_path / "run")
    assert begun(tmp_path / "run", resume=True, checkpoint_seconds=9.0, workers=1).finish().finished


def test_a_damaged_description_is_reported(tmp_path):
    stopped(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(json.dumps({})[:-1])
    with pytest.raises(LimbeckError, match="damaged"):
        begun(tmp_path / "run", resume=True)
