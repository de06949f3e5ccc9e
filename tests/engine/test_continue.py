"""A run that was left continues as if it had not been, without effect on others."""

from __future__ import annotations

import copy
import random
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from engine.stories import SGD, everything, make_loader, network, weights
from limbeck.batch import Batch
from limbeck.data import Loader
from limbeck.engine import Run, distill
from limbeck.errors import LimbeckError
from limbeck.functional import Projector, cross_entropy, kl_divergence, squared_error
from limbeck.losses import Loss
from limbeck.recipe import Optimizer, Recipe, Stage
from limbeck.schedule import ramp
from limbeck.teachers import MovingAverage, TeacherContext, TeacherSession, TeacherWrapper

CE = Loss(cross_entropy)


class WatchedTeacher(TeacherWrapper):
    """A teacher whose sessions can be looked at after the run."""

    def __init__(self, teacher: Any) -> None:
        super().__init__(teacher)
        self.sessions: list[Any] = []

    @property
    def fingerprint(self) -> str:
        return self.teachers[0].fingerprint

    def open(self, context: TeacherContext) -> TeacherSession:
        self.sessions.append(self.teachers[0].open(context))
        return self.sessions[-1]


def story(teacher: nn.Module | None = None, **setting: Any) -> tuple[Run, list[nn.Module]]:
    """Two stages with all that has a state: dropout, norms, momentum, heads, schedules, an average, shuffling."""
    student = network(norm=True, dropout=0.3)
    first = everything(teacher, epochs=2, optimizer=SGD, name="first")
    consistency = CE + ramp(1.0) * Loss(kl_divergence, temperature=2.0)
    average = WatchedTeacher(MovingAverage(decay=0.8))
    second = Stage(consistency, teacher=average, epochs=2, optimizer=Optimizer("adam"), name="second")
    run = distill(student, first >> second, make_loader(30), **{"log_every": 1, **setting})
    return run, [student, first.objective, second.teacher]


def state(parts: list[Any]) -> torch.Tensor:
    student, objective, teacher = parts
    return weights(student, objective, teacher.sessions[-1].model)


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
        student, stage = network(dropout=0.2), everything(epochs=4, optimizer=SGD)
        run = distill(student, stage, make_loader(30, batch_size=4), accumulate=3, log_every=3)
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
        run = distill(student, Stage(CE, epochs=2), loader, optimizer=SGD, log_every=1)
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
    student, stage, data = network(dropout=0.3), everything(epochs=2, optimizer=SGD), make_loader()
    average = Stage(CE + Loss(kl_divergence), teacher=MovingAverage(decay=0.8), epochs=1, loader=make_loader(16))
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
        run = distill(network(), Stage(Loss(kl_divergence), teacher=unfit, epochs=1), make_loader())
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
        run = distill(
            network(dropout=0.3), recipe, make_loader(), seed=seed, optimizer=Optimizer("sgd", lr=1e-30)
        ).finish()
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
        distill(student, recipe, make_loader(), checkpoint_seconds=seconds, out=out, optimizer=SGD).finish()
        found.append(weights(student))
    assert torch.equal(found[0], found[1])


# Heads that several stages share.


def test_a_head_learns_on_in_the_next_stage():
    head = Projector()
    loss = Loss(squared_error, student="0", teacher="0", head=head)
    teacher = network(hidden=6, seed=7)
    first, second = (Stage(loss, teacher=teacher, epochs=1, optimizer=SGD) for _ in range(2))
    kept = []
    run = distill(network(), first >> second, make_loader(), log_every=1)
    own = {id(stage.objective.head): stage.objective.head for stage in run.stages}
    assert len(own) == 1, "a copy for the run, which both stages share"
    for report in run:
        kept.append((report.step, weights(*own.values())))
    assert len(kept) == 8
    assert len({tuple(w.tolist()) for _, w in kept}) == 8


def test_a_kill_before_the_stage_of_a_head_can_be_resumed(tmp_path):
    """The only checkpoint is of the end of the first stage, when the second's head had no shape yet."""

    def run_of(out=None, **options):
        first = Stage(CE, epochs=1, name="first")
        again = everything(epochs=1, name="second")
        return distill(network(), first >> again, make_loader(30), out=out, optimizer=SGD, log_every=1, **options)

    killed = run_of(tmp_path / "run")
    for report in killed:
        if report.step == 1 and report.stage == "1 second":
            shutil.copytree(tmp_path / "run", tmp_path / "copy", ignore=shutil.ignore_patterns(".lock"))
            break
    resumed = run_of(tmp_path / "copy", resume=True).finish()
    assert resumed.history[0].stage == "1 second"
    assert torch.equal(weights(resumed.student), weights(run_of().finish().student))


class Drawing(Loader):
    """A source that draws its inputs from PyTorch's own generator, as sampling from a model does."""

    fingerprint, examples_per_epoch, has_ids = "drawing", 32, False

    def __len__(self) -> int:
        return 4

    def batches(self, epoch, start):
        for _ in range(start, 4):
            yield Batch(torch.randn(8, 5))


def test_a_source_that_draws_goes_on_as_if_it_had_not_been_left(tmp_path):
    def run(**how: Any) -> Run:
        stage = Stage(Loss(kl_divergence), teacher=network(seed=1), epochs=2, optimizer=SGD)
        return distill(network(), stage, Drawing(), log_every=1, **how)

    whole = run().finish()
    for report in run(out=tmp_path / "run"):
        if report.step == 3:
            break
    again = run(out=tmp_path / "run", resume=True).finish()
    assert torch.equal(weights(whole.student), weights(again.student))
