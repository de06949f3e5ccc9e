"""Ctrl-C within a step: the run stops at its end, with a checkpoint, and continues exactly."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from torch import nn

from limbeck.engine import distill
from limbeck.functional import cross_entropy
from limbeck.losses import Loss
from limbeck.recipe import Stage

CE = Loss(cross_entropy)


@pytest.fixture(autouse=True)
def handler_of_python():
    """A shell that starts the tests in the background has Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Interrupted(nn.Module):
    """A student whose forward pass sends Ctrl-C, at the given calls."""

    def __init__(self, *calls):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.3), nn.Linear(8, 3))
        self.calls, self.number = calls, 0

    def forward(self, x):
        self.number += self.training
        for _ in range(self.calls.count(self.number) if self.training else 0):
            os.kill(os.getpid(), signal.SIGINT)
        return self.layers(x)


def student(*calls):
    torch.manual_seed(1)
    return Interrupted(*calls)


def start(model, out, stage=None, **options):
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(48, 5, generator=generator), torch.randint(0, 3, (48,), generator=generator)
    settings = {"batch_size": 8, "checkpoint_seconds": 3600.0, "seed": 2, **options}
    return distill(model, stage or Stage(CE, epochs=4), data, out=out, **settings)


def final(model):
    return torch.cat([tensor.flatten() for tensor in model.state_dict().values()])


@pytest.mark.parametrize("log_every", [1, 100])
@pytest.mark.parametrize("call", [9, 13, 24])  # the rehearsal takes calls too; the last are in the last epoch
def test_resume_after_ctrl_c_ends_in_the_same_weights(call, log_every, tmp_path):
    whole = student()
    start(whole, tmp_path / "whole", log_every=log_every).finish()
    run = start(student(call), tmp_path / "run", log_every=log_every)
    with pytest.raises(KeyboardInterrupt):
        run.finish()
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    again = student()
    resumed = start(again, tmp_path / "run", log_every=log_every, resume=True)
    resumed.finish()
    assert again.number < whole.number - call // 2, "it started again"
    assert torch.equal(final(again), final(whole))


def test_the_same_object_continues_after_ctrl_c(tmp_path):
    whole = student()
    start(whole, None).finish()
    model = student(9)
    run = start(model, None)
    with pytest.raises(KeyboardInterrupt):
        run.finish()
    run.finish()
    assert torch.equal(final(model), final(whole))


def test_a_second_ctrl_c_acts_at_once(tmp_path):
    model = student(9, 9)
    run = start(model, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        run.finish()
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_between_reports_meets_the_caller(tmp_path):
    run = start(student(), tmp_path / "run", log_every=1)
    seen = []

    def watch():
        for report in run:
            seen.append(signal.getsignal(signal.SIGINT))
            if report.step == 3:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        watch()
    assert set(seen) == {signal.default_int_handler}
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_a_handler_of_the_program_stays(tmp_path):
    got = []

    def handle(number, frame):
        got.append(number)

    before = signal.signal(signal.SIGINT, handle)
    try:
        run = start(student(9), tmp_path / "run").finish()
        assert signal.getsignal(signal.SIGINT) is handle
    finally:
        signal.signal(signal.SIGINT, before)
    assert run.finished
    assert got == [signal.SIGINT]
