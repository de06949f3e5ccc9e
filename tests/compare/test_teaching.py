"""The teacher of a job is the requested one."""

from __future__ import annotations

import json

import pytest
import torch

from job_events import collect_messages
from limbeck.compare.comparison_data import load_comparison_data
from limbeck.compare.teacher import ask, open_teacher, train_teacher
from limbeck.events import EnsemblePlanned, Message, ignore_events
from limbeck.job import make_job
from limbeck.teachers import Ensemble, ModelTeacher
from small_jobs import blobs, small_job


@pytest.fixture
def asked(tmp_path):
    def opened(**teacher):
        whole = {"model": "mlp", "hidden": [8], **teacher}
        job = make_job(small_job(blobs(tmp_path / "blobs.npz"), teacher=whole))
        material = load_comparison_data(job)
        return job, material, *open_teacher(job, material)

    return opened


def test_one_network_teaches_alone(asked):
    _, _, teacher, models = asked()
    assert isinstance(teacher, ModelTeacher)
    assert teacher.model is models["member-0"]
    assert teacher.preprocess is None, "it reads what the student reads, once for both"


@pytest.mark.parametrize("mean", ["geometric", "arithmetic"])
def test_members_are_different_networks_and_answer_as_one(asked, mean):
    _, material, teacher, models = asked(members=3, mean=mean)
    assert isinstance(teacher, Ensemble)
    assert teacher.mean == mean
    first, second, third = (model.classifier.weight for model in models.values())
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
    logits = ask(teacher, material.data.test, material)
    apart = torch.stack([ask(ModelTeacher(model), material.data.test, material) for model in models.values()])
    expected = apart.mean(0) if mean == "geometric" else apart.softmax(-1).mean(0).log()
    assert torch.allclose(logits.softmax(-1), expected.softmax(-1), atol=1e-6)


def test_it_learns_with_its_own_budget_or_the_students(asked, tmp_path):
    own, students = tmp_path / "own", tmp_path / "students"
    for out, teacher in ((own, {"train": {"epochs": 5, "lr": 0.5}}), (students, {})):
        job, material, _, models = asked(**teacher)
        before = models["member-0"].classifier.weight.clone()
        train_teacher(models, job, material, out, ignore_events)
        assert not torch.equal(before, models["member-0"].classifier.weight)
    settings = [json.loads((out / "teacher" / "run.json").read_text())["setting"] for out in (own, students)]
    assert [(s["epochs"], s["optimizer"]["lr"]) for s in settings] == [(5, 0.5), (2, 0.01)]


def test_a_person_is_informed(asked):
    job, material, _, models = asked(members=2)
    events = []
    train_teacher(models, job, material, None, events.append)
    assert events[:2] == [Message("Training the teacher: 2 x mlp, 2 epochs."), EnsemblePlanned(2)]
    assert [(event.run, event.title, event.step, event.steps) for event in events[2:]] == [
        ("teacher", "", 1, 2),
        ("teacher", "", 2, 2),
    ]


def test_a_person_is_informed_that_a_teacher_was_trained_before(asked, tmp_path):
    told = []
    for _ in range(2):
        job, material, _, models = asked()
        train_teacher(models, job, material, tmp_path, collect_messages(told))
    assert told == ["Training the teacher: mlp, 2 epochs.", "Teacher already trained: mlp, 2 epochs."]
