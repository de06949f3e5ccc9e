"""Is the student on disk valid at any moment?"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.stories import network, source, weights
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy
from limbeck.methods import make
from limbeck.models import load
from limbeck.objective import Loss
from limbeck.recipe import Optimiser, Recipe, Stage

CE = Loss(cross_entropy)


# The student on disk.


def test_the_student_is_on_disk_from_the_start_and_is_the_last_report_s(tmp_path):
    out = tmp_path / "run"
    run = distill(network(), Stage(CE, epochs=2), source(), out=out, log_every=1, checkpoint_seconds=0.0)
    assert torch.equal(weights(load(out / "student", build=network)), weights(network()))
    previous = weights(run.student)
    for _ in run:
        assert torch.equal(weights(load(out / "student", build=network)), previous)
        previous = weights(run.student)
    assert torch.equal(weights(load(out / "student", build=network)), weights(run.student))


def test_ctrl_c_leaves_a_student_that_loads(tmp_path):
    calls = []

    class Interrupting(nn.Sequential):
        def forward(self, x):
            calls.append(1)
            if len(calls) == 5:
                raise KeyboardInterrupt
            return super().forward(x)

    student = Interrupting(nn.Linear(5, 3))
    run = distill(student, Stage(CE, epochs=2), source(), out=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        run.finish()
    kept = load(tmp_path / "run" / "student", build=lambda: nn.Sequential(nn.Linear(5, 3)))
    assert torch.equal(weights(kept), weights(student))


def test_a_student_that_is_no_number_never_replaces_the_last_good_one(tmp_path):
    out = tmp_path / "run"
    explode = Optimiser("sgd", lr=1e30)
    run = distill(
        network(), Stage(CE, epochs=9), source(), out=out, optimiser=explode, log_every=50, checkpoint_seconds=0.0
    )
    with pytest.raises(LimbeckError, match=r"no number any more|The loss became"):
        run.finish()
    assert bool(weights(load(out / "student", build=network)).isfinite().all())


def test_a_model_of_another_kind_may_be_shipped_in_the_end(tmp_path):
    """First one model learns, then another, and only that one is the student."""
    recipe = Recipe(
        Stage(CE, epochs=1, trains="first"),
        Stage(CE, epochs=1, trains="second"),
        makes={"second": lambda models: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))},
        ship="second",
    )
    out = tmp_path / "run"
    distill({"first": nn.Linear(5, 3)}, recipe, source(), out=out, checkpoint_seconds=0.0).finish()
    kept = load(out / "student", build=lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)))
    assert kept(torch.zeros(1, 5)).shape == (1, 3)


def test_a_function_ships_what_it_builds(tmp_path):
    recipe = Recipe(Stage(CE, epochs=1), ship=lambda models: nn.Sequential(models["student"], nn.Softmax(-1)))
    out = tmp_path / "run"
    run = distill(network(), recipe, source(), out=out).finish()
    kept = load(out / "student", build=lambda: nn.Sequential(network(), nn.Softmax(-1)))
    assert torch.equal(weights(kept), weights(run.models["student"]))


@pytest.mark.parametrize("method", ["mean_teacher", "born_again"])
def test_a_model_that_is_made_later_has_a_stand_in_on_disk(method, tmp_path):
    recipe = make(method) if method == "mean_teacher" else make(method, teacher=network(seed=7), generations=2)
    run = distill(network(), recipe, source(), epochs=1, out=tmp_path / "run", log_every=1)
    assert torch.equal(weights(load(tmp_path / "run" / "student", build=network)), weights(network()))
    run.finish()
    assert torch.equal(weights(load(tmp_path / "run" / "student", build=network)), weights(run.student))


def test_a_stand_in_of_another_kind_gives_way(tmp_path):
    def made(models):
        return nn.Linear(5, 3)

    second = Stage(CE, trains="second", epochs=1)
    recipe = Recipe(Stage(CE, epochs=1) >> second, makes={"second": made}, ship="second")
    run = distill(network(), recipe, source(), out=tmp_path / "run", checkpoint_seconds=0.0).finish()
    assert torch.equal(weights(load(tmp_path / "run" / "student", build=lambda: nn.Linear(5, 3))), weights(run.student))
    assert not list((tmp_path / "run").glob(".*"))


def test_a_loop_that_is_left_keeps_the_last_good_student(tmp_path):
    explode = Optimiser("sgd", lr=1e39, decay="constant", warmup=0)
    for _ in distill(network(), Stage(CE, epochs=2), source(), out=tmp_path / "run", optimiser=explode, log_every=1):
        break
    assert bool(weights(load(tmp_path / "run" / "student", build=network)).isfinite().all())
