"""A method that ships another model than the student: its size, its latency, its verdict, its card and its export."""

from __future__ import annotations

import json

import pytest

import limbeck as lb
from limbeck.compare.arms import Outcome
from limbeck.compare.result import verdict_of
from limbeck.export import export_run
from limbeck.job import RunLayout
from limbeck.metrics import load_tensors
from small_jobs import blobs, small_job

SIMKD = "own.py:simkd"
OWN = '''
import copy
import torch
from torch import nn
import limbeck as lb
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.recipe import run_context
from limbeck.teachers import TeacherRef, as_teacher


class Borrowing(nn.Module):
    """The student's body, a learned projector as wide as the data demand, and the teacher's own classifier."""

    def __init__(self, body, width, last):
        super().__init__()
        self.body, self.project = body, nn.Linear(width, last.in_features)
        self.last = copy.deepcopy(last).requires_grad_(False)

    def forward(self, x):
        return self.last(torch.relu(self.project(self.body.layer1(x.flatten(1)))))


def simkd(teacher, *, tail=["classifier"], weight: float = 1.0):
    """What SimKD ships: the student under the teacher's classifier. It asks the run for an example."""

    def whole(models):
        ours = run_context(models)
        live = as_teacher(teacher)
        live = getattr(live, "bound", live) if isinstance(live, TeacherRef) else live
        shown = models["student"].layer1(ours.preprocess(ours.loader.peek().to(ours.device)).flatten(1))
        return Borrowing(models["student"], shown.shape[1], live.model.get_submodule(tail[0]))

    objective = lb.Loss(cross_entropy) + weight * lb.Loss(kl_divergence)
    return lb.Recipe(lb.Stage(objective, trains="whole", teacher=teacher), makes={"whole": whole}, ship="whole")
'''


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simkd")
    (folder / "own.py").write_text(OWN)
    asked = small_job(
        blobs(folder / "blobs.npz"), seeds=1, out=str(folder / "run"), methods=[f"{folder}/own.py:simkd", "hinton"]
    )
    asked["arms"] = ["teacher", "student alone", "shuffled teacher", "distilled"]
    return lb.make_job(asked), lb.run_job(lb.make_job(asked)), folder


def test_its_size_is_that_of_what_it_ships(run):
    _, result, folder = run
    arms = result["arms"]
    shipped = kept_weights(RunLayout(folder / "run").seed(SIMKD, 0) / "student")
    assert arms[SIMKD]["parameters"] == shipped > arms["hinton"]["parameters"] == arms["student alone"]["parameters"]
    assert arms["shuffled teacher"]["parameters"] == shipped, "the first method's control ships the same"
    assert arms[SIMKD]["cost"]["parameters"] == shipped
    assert arms[SIMKD]["megabytes"] > arms["hinton"]["megabytes"]
    assert arms[SIMKD]["cost"]["macs"] > arms["hinton"]["cost"]["macs"]


def kept_weights(folder):
    return sum(tensor.numel() for tensor in load_tensors(folder / "model.safetensors").values())


def test_a_folder_taken_up_again_says_the_same(run):
    job, result, folder = run
    (folder / "run" / "result.json").unlink()
    again = lb.run_job(job, resume=True)
    assert {arm: row["cost"]["parameters"] for arm, row in again["arms"].items()} == {
        arm: row["cost"]["parameters"] for arm, row in result["arms"].items()
    }
    assert again["arms"][SIMKD]["milliseconds"] == pytest.approx(result["arms"][SIMKD]["milliseconds"])


def test_a_verdict_on_it_explains_how_much_larger_it_is(run):
    job, _, _ = run

    def said(parameters):
        ours = [Outcome(arm, seed, {"accuracy": 0.5}, 0.5, parameters=size) for seed in range(2)
                for arm, size in ((SIMKD, parameters), ("hinton", 100), ("student alone", 100))]  # fmt: skip
        return verdict_of(job.model_copy(update={"arms": ("student alone", "distilled")}), ours, examples=60)[
            "sentence"
        ]

    assert "2.5 times the size of the student alone" in said(250)
    assert "times the size" not in said(100)


@pytest.mark.parametrize("arm", [SIMKD, "shuffled teacher"])
def test_it_is_exported_although_its_maker_asks_for_data(run, tmp_path, arm):
    _, result, folder = run
    found = export_run(folder / "run", trust=True, to="folder", arm=arm, out=tmp_path / "out")
    card = (found.path / "README.md").read_text()
    assert f"| {result['arms'][arm]['parameters']:,} |" in card
    config = json.loads((found.path / "config.json").read_text())
    assert config["metadata"]["arm"] == arm
