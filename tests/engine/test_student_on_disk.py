"""The student on disk is valid at any moment."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import limbeck as lb
from engine.stories import make_loader, network, weights
from killing import states_at_kills
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy
from limbeck.job import make_job
from limbeck.losses import Loss
from limbeck.methods import make
from limbeck.models import load
from limbeck.recipe import Optimizer, Recipe, Stage
from small_jobs import blobs, small_job

CE = Loss(cross_entropy)


# The student on disk.


def test_the_student_is_on_disk_from_the_start_and_is_the_last_report_s(tmp_path):
    out = tmp_path / "run"
    run = distill(network(), Stage(CE, epochs=2), make_loader(), out=out, log_every=1, checkpoint_seconds=0.0)
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
    run = distill(student, Stage(CE, epochs=2), make_loader(), out=tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        run.finish()
    kept = load(tmp_path / "run" / "student", build=lambda: nn.Sequential(nn.Linear(5, 3)))
    assert torch.equal(weights(kept), weights(student))


def test_a_student_that_is_no_number_never_replaces_the_last_good_one(tmp_path):
    out = tmp_path / "run"
    explode = Optimizer("sgd", lr=1e30)
    run = distill(
        network(), Stage(CE, epochs=9), make_loader(), out=out, optimizer=explode, log_every=50, checkpoint_seconds=0.0
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
    distill({"first": nn.Linear(5, 3)}, recipe, make_loader(), out=out, checkpoint_seconds=0.0).finish()
    kept = load(out / "student", build=lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)))
    assert kept(torch.zeros(1, 5)).shape == (1, 3)


def test_a_function_ships_what_it_builds(tmp_path):
    recipe = Recipe(Stage(CE, epochs=1), ship=lambda models: nn.Sequential(models["student"], nn.Softmax(-1)))
    out = tmp_path / "run"
    run = distill(network(), recipe, make_loader(), out=out).finish()
    kept = load(out / "student", build=lambda: nn.Sequential(network(), nn.Softmax(-1)))
    assert torch.equal(weights(kept), weights(run.models["student"]))


@pytest.mark.parametrize("method", ["mean_teacher", "born_again"])
def test_a_model_that_is_made_later_has_a_stand_in_on_disk(method, tmp_path):
    recipe = make(method) if method == "mean_teacher" else make(method, teacher=network(seed=7), generations=2)
    run = distill(network(), recipe, make_loader(), epochs=1, out=tmp_path / "run", log_every=1)
    assert torch.equal(weights(load(tmp_path / "run" / "student", build=network)), weights(network()))
    run.finish()
    assert torch.equal(weights(load(tmp_path / "run" / "student", build=network)), weights(run.student))


def test_a_stand_in_of_another_kind_gives_way(tmp_path):
    def made(models):
        return nn.Linear(5, 3)

    second = Stage(CE, trains="second", epochs=1)
    recipe = Recipe(Stage(CE, epochs=1) >> second, makes={"second": made}, ship="second")
    run = distill(network(), recipe, make_loader(), out=tmp_path / "run", checkpoint_seconds=0.0).finish()
    assert torch.equal(weights(load(tmp_path / "run" / "student", build=lambda: nn.Linear(5, 3))), weights(run.student))
    assert not list((tmp_path / "run").glob(".*"))


def test_a_loop_that_is_left_keeps_the_last_good_student(tmp_path):
    explode = Optimizer("sgd", lr=1e39, decay="constant", warmup=0)
    for _ in distill(
        network(), Stage(CE, epochs=2), make_loader(), out=tmp_path / "run", optimizer=explode, log_every=1
    ):
        break
    assert bool(weights(load(tmp_path / "run" / "student", build=network)).isfinite().all())


def mlp(seed=0):
    return lb.build("mlp", inputs=5, classes=3, hidden=[8], dropout=0.2, seed=seed)


OWN = {
    "born_again": {"teacher": mlp(7), "generations": 2},
    "mean_teacher": {"decay": 0.9},
    "fitnets": {"teacher": mlp(7), "hint": "layer1", "guided": "layer1"},
}


@pytest.mark.soak
@pytest.mark.parametrize(
    "name",
    ["supervised", "label_smoothing", "hinton", "logit_matching", "fitnets", "born_again", "mean_teacher", "mutual"],
)
def test_a_student_opens_after_a_kill_at_any_write(tmp_path, name):
    own = OWN.get(name, {"teacher": mlp(7)} if name in ("hinton", "logit_matching") else {})
    models = {"student": mlp(), "peer": mlp(1)} if name == "mutual" else mlp()
    out, setting = tmp_path / "run", {"epochs": 3, "log_every": 1, "checkpoint_seconds": 0.0}
    run = distill(models, make(name, **own), make_loader(), out=out, **setting)
    states = states_at_kills(out, run.finish, tmp_path / "states")
    assert len(states) > 100
    opened = [lb.load(state / "student") for state in states]
    assert torch.equal(weights(opened[-1]), weights(run.student))
    print(f"{name}: {len(states)} kills, all students open")


@pytest.mark.soak
@pytest.mark.parametrize("methods", [["hinton", "mean_teacher", "born_again"], ["fitnets", "mutual", "specialists"]])
def test_the_students_of_a_job_open_after_a_kill_at_any_write(tmp_path, methods):
    own = {
        "fitnets": {"name": "fitnets", "hint": "layer1", "guided": "layer1"},
        "specialists": {"name": "specialists", "groups": [[0, 1], [2, 3, 4]]},
    }
    given = small_job(blobs(tmp_path / "b.npz"), methods=[own.get(name, name) for name in methods], seeds=1)
    job = make_job({**given, "out": str(tmp_path / "run")})
    states = states_at_kills(tmp_path / "run", lambda: lb.run_job(job), tmp_path / "states")
    opened = 0
    for state in states:
        begun = {one.parent / "student" for one in state.glob("arms/*/seed-*/run.json")}
        shipped = [state / "student"] if (state / "job.yaml").exists() else []
        for student in [*shipped, *(one for one in begun if one.exists())]:
            lb.load(student)
            opened += 1
    assert len(states) > 200
    print(f"{', '.join(methods)}: {len(states)} kills, {opened} students open")
