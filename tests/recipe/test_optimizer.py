"""Optimizers change parameters as described."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from limbeck.errors import LimbeckError, UnknownNameError
from limbeck.recipe import Optimizer


def test_warm_up_and_cosine_by_the_formula():
    plan = Optimizer(warmup=4, decay="cosine")
    for step in range(20):
        rise = min(1.0, (step + 1) / 4)
        x = max(step - 4, 0) / 16
        assert plan.scale(step, 20) == pytest.approx(rise * 0.5 * (1 + math.cos(math.pi * x)), abs=1e-15)


def test_the_ends_of_every_decay():
    for decay, last in (("constant", 1.0), ("cosine", 0.5 * (1 + math.cos(math.pi * 0.9))), ("linear", 0.1)):
        plan = Optimizer(decay=decay)
        assert plan.scale(0, 10) == 1.0
        assert plan.scale(9, 10) == pytest.approx(last)


def test_a_warm_up_that_is_a_fraction():
    share, steps = Optimizer(warmup=0.25, decay="linear"), Optimizer(warmup=5, decay="linear")
    assert [share.scale(t, 20) for t in range(20)] == [steps.scale(t, 20) for t in range(20)]


@pytest.mark.parametrize("decay", ["constant", "cosine", "linear"])
@pytest.mark.parametrize("warmup", [0, 3, 0.2, 1.0, 40])
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_the_scale_stays_between_zero_and_one(decay, warmup, steps):
    scales = [Optimizer(warmup=warmup, decay=decay).scale(t, steps) for t in range(steps)]
    assert all(0.0 <= scale <= 1.0 for scale in scales)
    assert max(scales) > 0.0


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop"])
def test_each_moves_as_torch_s_own(name):
    mine, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(mine.state_dict())
    make = getattr(torch.optim, {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD", "rmsprop": "RMSprop"}[name])
    options = {"weight_decay": 0.1}
    pairs = [
        (mine, Optimizer(name, lr=0.01, options=options).make(mine.parameters())),
        (theirs, make(theirs.parameters(), lr=0.01, foreach=False, **options)),
    ]
    x = torch.randn(5, 3)
    for _ in range(3):
        for model, optimizer in pairs:
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    assert torch.allclose(mine.weight, theirs.weight, atol=1e-7)


def test_a_function_makes_any_optimizer():
    plan = Optimizer(lambda parameters: torch.optim.SGD(parameters, lr=7.0))
    assert plan.make(nn.Linear(2, 2).parameters()).param_groups[0]["lr"] == 7.0
    assert plan.describe()["name"] == "<lambda>"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"lr": 0.0}, "lr must be a positive number"),
        ({"lr": float("nan")}, "lr must be a positive number"),
        ({"warmup": -1}, "warmup is a fraction below 1"),
        ({"warmup": 1.5}, "warmup is a fraction below 1"),
        ({"clip": 0.0}, "clip is the greatest norm"),
    ],
)
def test_values_that_make_no_sense(options, sentence):
    with pytest.raises(LimbeckError, match=sentence):
        Optimizer(**options)


def test_unknown_names_name_the_nearest():
    with pytest.raises(UnknownNameError, match=r"'adamm'.*Did you mean 'adam"):
        Optimizer("adamm")
    with pytest.raises(UnknownNameError, match=r"option of sgd 'momentun'.*Did you mean 'momentum'"):
        Optimizer("sgd", options={"momentun": 0.9})
