"""Does a run that was left go on as if it had not been, and does it leave everyone else alone?"""

from __future__ import annotations

import copy
import gc
import random
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from engine.stories import SGD, arrays, everything, hint, hooks, network, source, weights
from limbeck.engine import Run, distill
from limbeck.errors import LimbeckError
from limbeck.functional import Projector, cross_entropy, kl_divergence, squared_error
from limbeck.objective import Loss
from limbeck.recipe import Optimiser, Recipe, Stage
from limbeck.schedule import ramp
from limbeck.sources import Shuffled
from limbeck.teachers import Live, MovingAverage

CE = Loss(cross_entropy)


def story(teacher: nn.Module | None = None, **setting: Any) -> tuple[Run, list[nn.Module]]:
    """Two stages with all that has a state: dropout, norms, momentum, heads, schedules, an average, shuffling."""
    student = network(norm=True, dropout=0.3)
    first = everything(teacher, epochs=2, optimiser=SGD, name="first")
    consistency = CE + ramp(1.0) * Loss(kl_divergence, temperature=2.0)
    second = Stage(consistency, teacher=MovingAverage(decay=0.8), epochs=2, optimiser=Optimiser("adam"), name="second")
    run = distill(student, first >> second, source(30), **{"log_every": 1, **setting})
    return run, [student, first.objective, second.teacher]


def state(parts: list[Any]) -> torch.Tensor:
    student, objective, teacher = parts
    return weights(student, objective, teacher.model)


def seen(run: Run) -> list[tuple[Any, ...]]:
    """All that reports say, but for the clock."""
    return [report._replace(rate=0.0, seconds=0.0) for report in run.history]


@pytest.fixture(scope="module")
def unbroken() -> tuple[torch.Tensor, list[Any]]:
    run, parts = story()
    run.finish()
    return state(parts), seen(run)


@pytest.mark.parametrize("at", [1, 3, 4, 8, 9, 13, 16])
def test_break_then_finish_is_unbroken_bit_for_bit(unbroken, at):
    run, parts = story()
    for _ in run:
        if len(run.history) == at:
            break
    assert not run.finished
    run.finish()
    assert run.finished
    assert seen(run) == unbroken[1]
    assert torch.equal(state(parts), unbroken[0])


def test_breaking_at_every_report(unbroken):
    run, parts = story()
    while not run.finished:
        for _ in run:
            break
        else:
            assert run.finished
    assert seen(run) == unbroken[1]
    assert torch.equal(state(parts), unbroken[0])


def test_break_while_accumulating_and_with_rare_reports():
    found = []
    for at in (None, 1, 2):
        student, stage = network(dropout=0.2), everything(epochs=4, optimiser=SGD)
        run = distill(student, stage, source(30, batch_size=4), accumulate=3, log_every=3)
        for _ in run:
            if at is not None and len(run.history) == at:
                break
        run.finish()
        found.append((weights(student, stage.objective), seen(run)))
    for weighed, reports in found[1:]:
        assert torch.equal(weighed, found[0][0])
        assert reports == found[0][1]


def test_a_second_iterator_goes_on_where_the_first_stopped(unbroken):
    run, parts = story()
    first = iter(run)
    next(first)
    next(first)
    run.finish()
    assert seen(run) == unbroken[1]
    assert torch.equal(state(parts), unbroken[0])


def test_a_data_loader_goes_on_too():
    """It cannot be resumed from disk, but a break in one process loses nothing."""
    found = []
    for at in (None, 1, 3, 4, 6):
        inputs, labels = torch.randn(30, 5, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3
        loader = DataLoader(TensorDataset(inputs, labels), batch_size=8, shuffle=True)
        student = network(dropout=0.3)
        run = distill(student, Stage(CE, epochs=2), loader, optimiser=SGD, log_every=1)
        for _ in run:
            if len(run.history) == at:
                break
        run.finish()
        found.append((weights(student), len(run.history)))
    for weighed, steps in found:
        assert steps == 8
        assert torch.equal(weighed, found[0][0])


def test_the_same_run_twice_is_the_same_run():
    """The same models, recipe and source objects, put back to where they were, give the same bits again."""
    student, stage, data = network(dropout=0.3), everything(epochs=2, optimiser=SGD), source()
    average = Stage(CE + Loss(kl_divergence), teacher=MovingAverage(decay=0.8), epochs=1, source=source(16))
    before = copy.deepcopy(student.state_dict())
    found = []
    for _ in range(2):
        student.load_state_dict(before)
        stage.objective.get_submodule("parts.1").objective.head.map = None
        run = distill(student, stage >> average, data, log_every=1).finish()
        found.append((weights(student), seen(run)))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


# Random numbers.


def draws() -> list[float]:
    return [float(torch.rand(1)), float(np.random.rand()), random.random(), float(torch.randn(1))]


def test_what_the_caller_draws_does_not_change_the_run(unbroken):
    run, parts = story()
    torch.manual_seed(99)
    for _ in run:
        draws()
        torch.randn(7)
    assert torch.equal(state(parts), unbroken[0])


def seed_all() -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("leave", ["finish", "break", "iterate", "error"])
def test_the_run_leaves_the_caller_s_stream_alone(leave):
    unfit = nn.Linear(5, 4)
    seed_all()
    wanted = [draws() for _ in range(3)]
    seed_all()
    found = [draws()]
    if leave == "error":
        run = distill(network(), Stage(Loss(kl_divergence), teacher=unfit, epochs=1), source())
    else:
        run, _ = story()
    if leave == "finish":
        run.finish()
        found += [draws(), draws()]
    elif leave == "break":
        for _ in run:
            found.append(draws())
            break
        found.append(draws())
    elif leave == "iterate":
        for report in run:
            if report.step == 1:
                found.append(draws())
    else:
        with pytest.raises(LimbeckError):
            run.finish()
        found += [draws(), draws()]
    assert found == wanted


def test_seeds_differ_and_are_kept():
    found = []
    for seed in (0, 0, 1):
        student = network(dropout=0.3)
        distill(student, Stage(CE, epochs=1), (torch.ones(30, 5), torch.arange(30) % 3), seed=seed).finish()
        found.append(weights(student))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_new_model_depends_on_the_seed_and_its_name_alone():
    def made(*, before: int, seed: int) -> torch.Tensor:
        recipe = Recipe(Stage(CE, steps=before), Stage(CE, steps=1, trains="b"), makes={"b": lambda m: nn.Linear(5, 3)})
        run = distill(network(dropout=0.3), recipe, source(), seed=seed, optimiser=Optimiser("sgd", lr=1e-30)).finish()
        return weights(run.models["b"])

    assert torch.equal(made(before=1, seed=0), made(before=3, seed=0))
    assert not torch.equal(made(before=1, seed=0), made(before=1, seed=1))


def test_a_ship_that_draws_does_not_change_the_run(tmp_path):
    """How often the student is written depends on the clock, so writing it may not draw from the run's numbers."""
    found = []
    for seconds in (0.0, 1e9):
        student = network(dropout=0.5)
        recipe = Recipe(Stage(CE, epochs=2), ship=lambda m: nn.Sequential(m["student"], nn.Linear(3, 3)))
        out = tmp_path / str(seconds)
        distill(student, recipe, source(), checkpoint_seconds=seconds, out=out, optimiser=SGD).finish()
        found.append(weights(student))
    assert torch.equal(found[0], found[1])


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
    distill(pair[0], everything(pair[1], epochs=1), source()).finish()


def test_nothing_is_left_after_break(pair):
    for _ in distill(pair[0], everything(pair[1], epochs=1), source(), log_every=1):
        assert hooks(pair) == 2
        break
    assert hooks(pair) == 0


def test_nothing_is_left_after_an_error_while_it_is_handled(pair):
    """Also where the traceback, and so the frames of the run, are still alive."""
    explode = Optimiser("sgd", lr=1e30)
    run = distill(pair[0], everything(pair[1], epochs=9, optimiser=explode), source(), log_every=1)
    with pytest.raises(LimbeckError, match=r"The loss became|no number") as kept:
        run.finish()
    assert kept.traceback
    assert hooks(pair) == 0
    assert pair[1].training


def test_nothing_is_left_after_an_error_in_the_caller_s_loop(pair):
    run = distill(pair[0], everything(pair[1], epochs=1), source(), log_every=1)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        for _ in run:
            1 / 0  # noqa: B018
    gc.collect()
    assert hooks(pair) == 0


def test_a_frozen_teacher_stays_as_it_was(pair):
    before = copy.deepcopy(pair[1].state_dict())
    distill(pair[0], everything(pair[1], epochs=1), source()).finish()
    for mode in ("eval", "train"):
        stage = Stage(Loss(kl_divergence), teacher=Live(pair[1], mode=mode), epochs=1)
        distill(pair[0], stage, source()).finish()
    for key, value in pair[1].state_dict().items():
        assert torch.equal(value, before[key]), key


def test_parameters_that_a_stage_cannot_reach_stay_and_may_learn_again():
    """The hint of FitNets reaches only the lower layer; the upper ones rest, and learn in the next stage."""
    student = network().double()
    before = {key: value.clone() for key, value in student.state_dict().items()}
    lower = Stage(hint(), teacher=network(hidden=6, seed=7).double(), epochs=1, optimiser=SGD)
    data = Shuffled(arrays(30, dtype=torch.float64), batch_size=8)
    distill(student, lower, data).finish()
    assert not torch.equal(student[0].weight, before["0.weight"])
    assert torch.equal(student[4].weight, before["4.weight"])
    assert all(parameter.requires_grad for parameter in student.parameters())
    distill(student, Stage(CE, epochs=1, optimiser=SGD), data).finish()
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
    data = Shuffled(arrays_of(inputs), batch_size=8, shuffle=False)
    distill(student, Stage(CE, epochs=1, optimiser=SGD), data).finish()
    assert not torch.equal(weights(student.other), before)


def arrays_of(inputs: torch.Tensor) -> Any:
    from limbeck.sources import Arrays

    return Arrays(inputs, torch.arange(len(inputs)) % 3)


# A run that is forgotten.


def test_a_run_that_is_never_used_warns():
    run = distill(network(), Stage(CE, epochs=1), source())
    with pytest.warns(UserWarning, match=r"never run: iterate it, or call \.finish\(\)"):  # noqa: PT031
        del run
        gc.collect()


def test_a_run_that_is_used_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = distill(network(), Stage(CE, epochs=1), source())
        for _ in run:
            break
        del run
        gc.collect()


def test_a_run_that_could_not_be_built_does_not_warn(tmp_path):
    (tmp_path / "run").write_text("a file")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(LimbeckError, match=r"is a file; a run needs a folder"):
            distill(network(), Stage(CE, epochs=1), source(), out=tmp_path / "run")
        gc.collect()


def test_a_finished_run_has_nothing_left_to_say():
    run = distill(network(), Stage(CE, epochs=1), source()).finish()
    history = list(run.history)
    assert list(run) == []
    assert run.finish().history == history


# Heads that several stages share.


def test_a_head_learns_on_in_the_next_stage():
    head = Projector()
    loss = Loss(squared_error, student="0", teacher="0", head=head)
    teacher = network(hidden=6, seed=7)
    first, second = (Stage(loss, teacher=teacher, epochs=1, optimiser=SGD) for _ in range(2))
    kept = []
    for report in distill(network(), first >> second, source(), log_every=1):
        kept.append((report.step, weights(head)))
    assert len(kept) == 8
    assert len({tuple(w.tolist()) for _, w in kept}) == 8
