"""Runs with relative paths are resumed from any working folder."""

from __future__ import annotations

import json

import yaml

from limbeck.job import make_job, with_absolute_paths
from small_jobs import blobs, job_file, small_job

OWN = """
from math import prod

from torch import nn
from limbeck.methods.logits.hinton import hinton


def build(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(input_shape), classes))


def soft(teacher):
    return hinton(teacher, temperature=2.0)
"""


def test_a_run_goes_on_from_another_folder(limbeck, here, monkeypatch):
    (here / "own.py").write_text(OWN)
    blobs(here / "blobs.npz")
    job = small_job("blobs.npz", student="own.py:build", method="own.py:soft", seeds=1, arms=["teacher", "distilled"])
    job_file(here / "job.yaml", job)
    first = limbeck("distill", "job.yaml", "--out", "runs/own", "--json")
    assert first.code == 0, first.err
    for made in ("result.json", "metrics.jsonl"):
        (here / "runs/own" / made).unlink()
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    refused = limbeck("resume", "../runs/own", "--json")
    assert refused.code == 1
    assert "--trust" in refused.err
    again = limbeck("resume", "../runs/own", "--json", "--trust")
    assert again.code == 0, again.err
    assert again.result["arms"]["distilled"]["measures"] == first.result["arms"]["distilled"]["measures"]
    assert (again.result["data"], again.result["method"]) == (first.result["data"], first.result["method"])
    config = (here / "runs/own/student/config.json").read_text()
    assert str(here) not in config
    assert json.loads(config)["metadata"]["method"] == "own.py:soft"


def test_a_finished_run_that_was_moved_names_its_new_place(limbeck, here):
    blobs(here / "blobs.npz")
    job_file(here / "job.yaml", small_job("blobs.npz", seeds=1, arms=["teacher", "student alone", "distilled"]))
    first = limbeck("distill", "job.yaml", "--out", "old-place")
    assert "old-place" in first.out.partition("what to try")[2]
    (here / "old-place").rename(here / "new-place")
    again = limbeck("resume", "new-place")
    assert again.code == 0, again.err
    assert "old-place" not in again.out
    assert again.out.count("new-place") > 3
    stays = limbeck("resume", "new-place", "--set", "out=elsewhere")
    assert stays.code == 1
    assert "stays in its folder" in stays.err
    assert not (here / "elsewhere").exists()


def test_names_stay_names_and_paths_become_whole(here, monkeypatch):
    monkeypatch.delenv("LIMBECK_DATA", raising=False)
    for made in ("mlp", "digits", "hinton", "student", "data"):
        (here / made).mkdir()
    (here / "data/mnist.npz").touch()
    (here / "rows.csv").touch()

    def found(**changes):
        job = make_job({"data": "digits", "teacher": "mlp", "student": "mlp", **changes})
        return with_absolute_paths(job).model_dump(mode="json")

    assert found() == make_job({"data": "digits", "teacher": "mlp", "student": "mlp"}).model_dump(mode="json")
    assert found(student="timm:resnet18")["student"]["model"] == "timm:resnet18"
    assert found(teacher="student")["teacher"]["model"] == str(here / "student")
    named = found(teacher={"model": "a/my.py:build@w.safetensors", "width": 3})["teacher"]
    assert (named["model"], named["width"]) == (f"{here / 'a/my.py'}:build@{here / 'w.safetensors'}", 3)
    assert found(data={"name": "rows.csv", "target": "y", "test": "more.csv"})["data"] == {
        "name": str(here / "rows.csv"), "target": "y", "test": str(here / "more.csv"),
    }  # fmt: skip
    assert found(data="mnist")["data"] == {"name": "mnist", "folder": str(here / "data")}
    assert found(data="cifar10")["data"] == "cifar10"
    assert found(data={"name": "cifar10", "folder": "there"})["data"]["folder"] == str(here / "there")
    assert yaml.safe_load(json.dumps(found(data="mnist"))) == found(data=found(data="mnist")["data"])
