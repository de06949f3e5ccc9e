"""The method supervised is the control itself: both have the runs of one."""

from __future__ import annotations

import json

from limbeck.compare import experiment, run_job
from limbeck.compare.arms import run_arm
from limbeck.job import make_job, read_job
from limbeck.models import read_config
from small_jobs import blobs, small_job

ARMS = ["student alone", "label smoothing", "distilled"]


def count_runs(monkeypatch):
    """The arms that are trained, as they come."""
    trained = []
    monkeypatch.setattr(
        experiment, "run_arm", lambda run, *rest: trained.append((run.arm, run.seed)) or run_arm(run, *rest)
    )
    return trained


def start(folder, **changes):
    asked = small_job(blobs(folder / "blobs.npz"), seeds=2, arms=ARMS, out=str(folder / "run"))
    return make_job({**asked, "method": "supervised", **changes})


def test_it_is_trained_once_and_stands_in_the_table_twice(tmp_path, monkeypatch):
    trained = count_runs(monkeypatch)
    job = start(tmp_path)
    result = run_job(job)
    assert sorted(trained) == [(arm, seed) for arm in sorted(ARMS[1:]) for seed in (0, 1)]
    alone, method = (result["arms"][arm]["accuracy"]["values"] for arm in ("student alone", "distilled"))
    assert len(alone) == 2
    assert alone == method
    run = tmp_path / "run"
    for seed in (0, 1):
        assert (run / "arms/student-alone" / f"seed-{seed}" / "predictions.safetensors").is_file()
    hashes = [read_config(folder)["sha256"] for folder in (run / "student", run / "arms/student-alone/seed-0/student")]
    assert hashes[0] == hashes[1]
    # The same as a control that is trained by itself, beside another method.
    other = run_job(make_job({**read_job(run / "job.yaml"), "method": "hinton", "out": str(tmp_path / "other")}))
    assert other["arms"]["student alone"]["accuracy"]["values"] == alone


def test_a_lost_line_of_the_copy_is_written_again_without_training(tmp_path, monkeypatch):
    job = start(tmp_path)
    before = run_job(job)
    run = tmp_path / "run"
    lines = (run / "metrics.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["arm"] != "student alone"]
    assert len(kept) == len(lines) - 2
    (run / "metrics.jsonl").write_text("\n".join(kept) + "\n")
    (run / "result.json").unlink()
    trained = count_runs(monkeypatch)
    after = run_job(make_job({**read_job(run / "job.yaml"), "out": str(run)}), resume=True)
    assert trained == []
    accuracy = [one["arms"]["student alone"]["accuracy"]["values"] for one in (before, after)]
    assert accuracy[0] == accuracy[1]


def test_with_another_budget_it_is_trained_by_itself(tmp_path, monkeypatch):
    trained = count_runs(monkeypatch)
    run_job(start(tmp_path, budgets={"distilled": {"epochs": 3}}, arms=[ARMS[0], ARMS[2]], seeds=1))
    assert len(trained) == 2
