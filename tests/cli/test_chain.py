"""The student of one job is the teacher of the next, with its preprocessing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from job_events import collect_messages
from limbeck.data import load_data, preprocess_from_dict
from limbeck.models import build, read_config, save
from small_jobs import blobs, contents, job_file, small_job


def test_a_student_folder_teaches_the_next_job(limbeck, done, job):
    folder, ended = done
    before = contents(folder / "run" / "student")
    again = limbeck("distill", job, "--teacher", folder / "run" / "student", "--seeds", 1, "--json")
    assert again.code == 0, again.err
    assert "Teacher loaded from" in again.err
    assert again.result["arms"]["teacher"]["accuracy"]["values"] == [
        ended.result["arms"]["distilled"]["accuracy"]["values"][0]
    ]
    assert contents(folder / "run" / "student") == before
    assert sorted(path.name for path in (again_folder(again) / "teacher").iterdir()) == ["answers.safetensors"]


def again_folder(ended):
    from pathlib import Path

    return Path(ended.result["run"])


def test_flags_take_the_teacher_of_a_file_away_with_its_arguments(limbeck, done, here):
    job = small_job(blobs(here / "b.npz"), teacher={"model": "cnn", "widths": [4], "train": {"epochs": 3}})
    printed = limbeck(
        "distill", job_file(here / "j.yaml", job), "--teacher", done[0] / "run" / "student", "--print-job"
    )
    assert "widths" not in printed.out
    assert "epochs: 3" in printed.out


def measured_elsewhere(here):
    """A teacher that was trained on the same pictures, halved and normalized in its own way."""
    data = load_data(blobs(here / "blobs.npz"))
    preprocess = {
        "preprocess": "pixels",
        "mean": [0.9],
        "std": [0.02],
        "scale": 1 / 255,
        "channels_last": False,
        "channel": True,
    }
    whole = data.train.take(torch.arange(len(data.train)))
    inputs = preprocess_from_dict(preprocess)(whole).flatten(1).double()
    # A linear teacher in closed form, on what its own reads give.
    padded = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=torch.float64)], 1)
    targets = torch.nn.functional.one_hot(whole.labels, 5).double() * 8 - 4
    found = torch.linalg.lstsq(padded, targets, driver="gelsd").solution.float()
    net = build("mlp", inputs=36, classes=5, hidden=[], seed=0)
    net.load_state_dict({"classifier.weight": found[:-1].T, "classifier.bias": found[-1]})
    save(net, here / "t", metadata={"preprocess": preprocess, "class_names": list(data.class_names)})
    return preprocess


def test_a_teacher_reads_the_data_as_it_did_when_it_was_trained(limbeck, here):
    preprocess = measured_elsewhere(here)
    ours = load_data(here / "blobs.npz").preprocess.to_dict()
    assert ours != preprocess
    job = job_file(here / "job.yaml", small_job("blobs.npz", teacher="t", seeds=1))
    ended = limbeck("distill", job, "--out", "run", "--json")
    assert ended.code == 0, ended.err
    assert ended.result["arms"]["teacher"]["accuracy"]["mean"] > 0.95
    assert read_config(here / "run" / "student")["metadata"]["preprocess"] == ours
    recipe = json.loads((here / "run" / "arms" / "distilled" / "seed-0" / "run.json").read_text())["recipe"]
    assert recipe[0]["teacher"]["teacher"] == "ModelTeacher"
    # The same weights without a word on how to read come to nothing in the data's own way.
    (here / "u").mkdir()
    plain = build("mlp", inputs=36, classes=5, hidden=[], seed=0)
    plain.load_state_dict(limbeck_load(here / "t").state_dict())
    save(plain, here / "u")
    blind = limbeck("distill", job, "--teacher", "u", "--set", "teacher.check=false", "--json")
    assert blind.result["arms"]["teacher"]["accuracy"]["mean"] < 0.9


def limbeck_load(path):
    import limbeck

    return limbeck.load(path)


def test_weights_in_a_folder_with_my_own_function_bring_their_reads(limbeck, here):
    preprocess = measured_elsewhere(here)
    (here / "my.py").write_text(
        "from limbeck.models import build as make\n\n\n"
        "def build():\n    return make('mlp', inputs=36, classes=5, hidden=[])\n"
    )
    job = job_file(here / "job.yaml", small_job("blobs.npz", teacher="my.py:build@t", seeds=1))
    ended = limbeck("distill", job, "--json")
    assert ended.code == 0, ended.err
    assert ended.result["arms"]["teacher"]["accuracy"]["mean"] > 0.95
    assert preprocess["mean"] == [0.9]


def test_bare_weights_are_read_in_the_datas_way(limbeck, here, done):
    data = load_data(blobs(here / "blobs.npz"))
    trained = limbeck_load(done[0] / "run" / "student")
    save_file({name: tensor.contiguous() for name, tensor in trained.state_dict().items()}, here / "w.safetensors")
    (here / "my.py").write_text(
        "from limbeck.models import build as make\n\n\n"
        "def build(classes):\n    return make('mlp', inputs=36, classes=classes, hidden=[6])\n"
    )
    job = job_file(here / "job.yaml", small_job("blobs.npz", teacher="my.py:build@w.safetensors", seeds=1))
    ended = limbeck("distill", job, "--json")
    assert ended.code == 0, ended.err
    values = done[1].result["arms"]["distilled"]["accuracy"]["values"]
    assert ended.result["arms"]["teacher"]["accuracy"]["values"] == values[:1]
    assert len(data.test) == 60


@pytest.mark.parametrize("fraction", [0.1, 0.4])
def test_the_development_part_is_carved_from_the_training_data(limbeck, job, fraction):
    ended = limbeck("distill", job, "--set", f"development={fraction}", "--seeds", 1, "--json")
    data = ended.result["data"]
    assert data["train"] + data["development"] == 150
    assert data["development"] == round(150 * fraction)
    assert data["test"] == 60


def test_the_check_of_the_teacher_sees_development_data_alone(here):
    """The test labels may be anything: they decide nothing before the table."""
    import limbeck as lb

    parts = dict(np.load(blobs(here / "blobs.npz")))
    parts["y_test"] = (parts["y_test"] + 1) % 5
    np.savez(here / "turned.npz", **parts)
    told = []
    result = lb.run_job(
        lb.make_job(small_job(here / "turned.npz", seeds=1, arms=["teacher", "distilled"])),
        callback=collect_messages(told),
    )
    assert result["teacher_development_accuracy"] > 0.9
    assert result["arms"]["teacher"]["accuracy"]["mean"] < 0.1
    assert any("on development data" in line for line in told)
    assert result["run"] is None
