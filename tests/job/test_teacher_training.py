"""Each of several teachers can have a training budget of its own."""

from __future__ import annotations

import json

import pytest
import torch

from limbeck.compare import changed_job as changes
from limbeck.compare import run_job
from limbeck.compare.teacher_checks import check_teacher
from limbeck.data import ArrayDataset
from limbeck.errors import LimbeckError
from limbeck.job import job_text, make_job
from limbeck.job.config_io import with_settings
from small_jobs import small_job, taught_network

TEACHERS = {
    "wide": {"model": "mlp", "hidden": [8], "train": {"epochs": 3, "lr": 0.01}},
    "deep": {"model": "mlp", "hidden": [4, 4]},
}


def values(folder, teachers=TEACHERS, **changes):
    job = small_job(
        folder / "data.npz", student={"model": "mlp", "hidden": [6]}, arms=["student alone", "distilled"], seeds=1
    )
    return {**{key: value for key, value in job.items() if key != "teacher"}, "teachers": teachers, **changes}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    taught_network(folder)
    return folder


def test_own_training_holds_for_its_teacher_only(place):
    job = make_job(values(place))
    assert {name: budget.epochs for name, budget in job.teacher_budgets.items()} == {
        "wide": 3, "deep": job.budget.epochs
    }  # fmt: skip
    shared = make_job(values(place, teacher={"train": {"epochs": 7}, "check": False}))
    assert {name: budget.epochs for name, budget in shared.teacher_budgets.items()} == {"wide": 3, "deep": 7}
    assert not shared.teacher.check
    assert shared.teacher.train_places == ("teachers.wide.train", "teachers.deep.train")


@pytest.mark.parametrize("written", [False, True])
def test_an_option_changes_one_value_of_own_training(place, written):
    before = values(place)
    if written:  # the job file of a run
        import yaml

        before = yaml.safe_load(job_text(make_job(before)))
    after = make_job(with_settings(before, ["teachers.wide.train.epochs=60", "teachers.deep.train.epochs=5"]))
    wide, deep = after.teacher_budgets.values()
    assert (wide.epochs, wide.lr, deep.epochs) == (60, 0.01, 5)


def test_an_error_in_own_training_names_its_teacher(place):
    for bad in ({"epochs": 3, "lr": -1.0}, {"epochs": 3, "mix": "mixup"}, {"epochs": 3, "augment": "crob"}):
        with pytest.raises(LimbeckError, match=r"teachers\.wide\.train\.(lr|mix|augment)"):
            make_job(values(place, {**TEACHERS, "wide": {"model": "mlp", "train": bad}}))


def test_each_is_trained_for_its_own_number_of_epochs_and_resumed(place, tmp_path):
    job, told = make_job(values(place, out=str(tmp_path / "run"))), []
    run_job(job, callback=told.append)
    texts = [str(event) for event in told]
    assert any("Training the teacher: wide, 3 epochs" in text for text in texts)
    assert any(f"Training the teacher: deep, {job.budget.epochs} epoch" in text for text in texts)
    steps = {
        name: json.loads((tmp_path / "run" / "teacher" / name / "run.json").read_text()) for name in ("wide", "deep")
    }
    assert set(steps) == {"wide", "deep"}
    other = {**TEACHERS, "wide": {**TEACHERS["wide"], "train": {"epochs": 4}}}
    with pytest.raises(LimbeckError, match="teacher"):
        changes.changed_job(make_job(values(place, other, out=str(tmp_path / "run"))))


def test_the_advice_names_the_key_that_works():
    labels = torch.arange(100) % 2
    bad, examples = torch.zeros(100, 2), ArrayDataset(torch.zeros(100, 1), labels)
    with pytest.raises(LimbeckError, match=r"teachers\.wide\.train\.epochs"):
        check_teacher(bad, examples, classes=2, loaded=False, places=("teachers.wide.train",))
