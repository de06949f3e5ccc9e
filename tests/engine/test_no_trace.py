"""A run leaves nothing behind, and warns if it was never started."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from engine.stories import SGD, arrays, everything, hint, hooks, make_loader, network, weights
from limbeck.data import ShuffledLoader
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.losses import Loss
from limbeck.recipe import Optimizer, Stage
from limbeck.teachers import ModelTeacher

CE = Loss(cross_entropy)


# No trace.


def flags(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()] + [p.requires_grad for p in model.parameters()]


@pytest.fixture
def pair() -> Iterator[tuple[nn.Module, nn.Module]]:
    student, teacher = network(norm=True, dropout=0.2), network(hidden=6, seed=7, norm=True)
    student[1].eval()
    student[4].bias.requires_grad_(False)
    teacher.train()
    before = [(flags(model), list(model.state_dict()), hooks([model])) for model in (student, teacher)]
    yield student, teacher
    assert [(flags(model), list(model.state_dict()), hooks([model])) for model in (student, teacher)] == before


def test_nothing_is_left_after_finish(pair):
    distill(pair[0], everything(pair[1], epochs=1), make_loader()).finish()


def test_nothing_is_left_after_break(pair):
    for _ in distill(pair[0], everything(pair[1], epochs=1), make_loader(), log_every=1):
        assert hooks(pair) == 2
        break
    assert hooks(pair) == 0


def test_nothing_is_left_after_an_error_while_it_is_handled(pair):
    """Also where the traceback, and so the frames of the run, are still alive."""
    explode = Optimizer("sgd", lr=1e30)
    run = distill(pair[0], everything(pair[1], epochs=9, optimizer=explode), make_loader(), log_every=1)
    with pytest.raises(LimbeckError, match=r"The loss became|no number") as kept:
        run.finish()
    assert kept.traceback
    assert hooks(pair) == 0
    assert pair[1].training


def test_nothing_is_left_after_an_error_in_the_caller_s_loop(pair):
    run = distill(pair[0], everything(pair[1], epochs=1), make_loader(), log_every=1)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        for _ in run:
            1 / 0  # noqa: B018
    gc.collect()
    assert hooks(pair) == 0


def test_a_frozen_teacher_stays_as_it_was(pair):
    before = copy.deepcopy(pair[1].state_dict())
    distill(pair[0], everything(pair[1], epochs=1), make_loader()).finish()
    for mode in ("eval", "train"):
        stage = Stage(Loss(kl_divergence), teacher=ModelTeacher(pair[1], mode=mode), epochs=1)
        distill(pair[0], stage, make_loader()).finish()
    for key, value in pair[1].state_dict().items():
        assert torch.equal(value, before[key]), key


def test_parameters_that_a_stage_cannot_reach_stay_and_may_learn_again():
    """The hint of FitNets reaches only the lower layer; the upper ones rest, and learn in the next stage."""
    student = network().double()
    before = {key: value.clone() for key, value in student.state_dict().items()}
    lower = Stage(hint(), teacher=network(hidden=6, seed=7).double(), epochs=1, optimizer=SGD)
    data = ShuffledLoader(arrays(30, dtype=torch.float64), batch_size=8)
    distill(student, lower, data).finish()
    assert not torch.equal(student[0].weight, before["0.weight"])
    assert torch.equal(student[4].weight, before["4.weight"])
    assert all(parameter.requires_grad for parameter in student.parameters())
    distill(student, Stage(CE, epochs=1, optimizer=SGD), data).finish()
    assert not torch.equal(student[4].weight, before["4.weight"])


class Forked(nn.Module):
    """Reaches one branch or the other, as its data say: a router."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.one(x) if float(x[0, 0]) > 0 else self.other(x)


def test_a_parameter_that_only_later_batches_reach_learns_all_the_same():
    inputs = torch.cat([torch.ones(8, 5), -torch.ones(8, 5)])
    student = Forked()
    before = weights(student.other)
    data = ShuffledLoader(arrays_of(inputs), batch_size=8, shuffle=False)
    distill(student, Stage(CE, epochs=1, optimizer=SGD), data).finish()
    assert not torch.equal(weights(student.other), before)


def arrays_of(inputs: torch.Tensor) -> Any:
    from limbeck.data import ArrayDataset

    return ArrayDataset(inputs, torch.arange(len(inputs)) % 3)


# A run that is forgotten.


def test_a_run_that_is_never_used_warns():
    run = distill(network(), Stage(CE, epochs=1), make_loader())
    with pytest.warns(UserWarning, match=r"A Run .*call \.finish\(\)"):  # noqa: PT031
        del run
        gc.collect()


def test_a_run_that_is_used_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = distill(network(), Stage(CE, epochs=1), make_loader())
        for _ in run:
            break
        del run
        gc.collect()


def test_a_run_that_could_not_be_built_does_not_warn(tmp_path):
    (tmp_path / "run").write_text("a file")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(LimbeckError, match=r"is a file; a run needs a folder"):
            distill(network(), Stage(CE, epochs=1), make_loader(), out=tmp_path / "run")
        gc.collect()


def test_a_finished_run_has_nothing_left_to_say():
    run = distill(network(), Stage(CE, epochs=1), make_loader()).finish()
    history = list(run.history)
    assert list(run) == []
    assert run.finish().history == history


def test_a_script_that_ends_while_a_run_is_open_says_nothing():
    script = """
import torch
from limbeck.engine import distill
from limbeck.functional import cross_entropy
from limbeck.losses import Loss
from limbeck.recipe import Stage

data = (torch.randn(8, 4), torch.arange(8) % 3)
reports = iter(distill(torch.nn.Linear(4, 3), Stage(Loss(cross_entropy), epochs=3), data, log_every=1))
print(next(reports).step)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("1\n", "")
