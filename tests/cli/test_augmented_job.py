"""Jobs with augmentation and mixing."""

from __future__ import annotations

from pathlib import Path

from limbeck.cache import CacheReader
from small_jobs import blobs, job_file, small_job

BUDGET = {"epochs": 3, "lr": 0.02, "batch_size": 32, "augment": [{"crop": {"padding": 1}}], "mix": "mixup"}


def test_the_distilled_arm_learns_from_mixtures_that_were_asked_about_once(here, limbeck):
    job = small_job(
        blobs(here / "data.npz"), seeds=1, budget=BUDGET, method={"name": "hinton", "labels": False},
        teacher={"model": "mlp", "hidden": [32], "train": {"epochs": 4, "lr": 0.02, "batch_size": 16}},
        cache={"views": 2},
    )  # fmt: skip
    ended = limbeck("distill", job_file(Path("job.yaml"), job), "--json")
    assert ended.code == 0, ended.err
    store = CacheReader(here / ended.result["run"] / "answers")
    assert len(store) == 2 * ended.result["data"]["train"]
    assert set(ended.result["arms"]) == {"teacher", "student alone", "label smoothing", "distilled"}


def test_a_method_that_reads_labels_is_reported_before_the_teacher_is_trained(here, limbeck):
    ended = limbeck("distill", job_file(Path("job.yaml"), small_job(blobs(here / "data.npz"), budget=BUDGET)))
    assert ended.code != 0
    assert "no single label" in ended.err
    assert "Training the teacher" not in ended.err
