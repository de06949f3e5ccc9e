"""An interrupted comparison is read back as it was."""

from __future__ import annotations

import json
import math

import pytest
import torch

from limbeck.atomic_io import partial_path, write_text
from limbeck.compare import Outcome
from limbeck.compare.run_storage import (
    append_outcome,
    check_folder,
    initialize_folder,
    is_rank_zero,
    load_outcomes,
    remove_partial_files,
    to_json_safe,
)
from limbeck.engine import is_first_rank, open_fabric
from limbeck.errors import LimbeckError
from limbeck.job import job_text, make_job

JOB = {"data": "digits", "teacher": {"model": "mlp", "hidden": [8]}, "student": {"model": "mlp", "hidden": [2]}}


def outcome(seed, accuracy=0.5, development=0.25):
    return Outcome("distilled", seed, {"accuracy": accuracy, "nll": 1 / 3}, development)


def test_outcomes_come_back_to_the_last_bit(tmp_path):
    for seed in range(3):
        append_outcome(make_job(JOB), tmp_path, outcome(seed, accuracy=0.1 + 0.2))
    assert list(load_outcomes(tmp_path)) == [outcome(seed, accuracy=0.30000000000000004) for seed in range(3)]


def test_a_torn_line_is_forgotten_and_the_next_is_whole(tmp_path):
    append_outcome(make_job(JOB), tmp_path, outcome(0))
    with open(tmp_path / "metrics.jsonl", "a") as opened:
        opened.write('{"arm": "distilled", "seed": 1, "me')
    assert [found.seed for found in load_outcomes(tmp_path)] == [0]
    append_outcome(make_job(JOB), tmp_path, outcome(2))
    assert [found.seed for found in load_outcomes(tmp_path)] == [0, 2]


@pytest.mark.parametrize(
    "line", [b"[1]", b'{"arm": "a", "seed": 0, "measures": 3, "development": 1}', b"\xff\xfe", b'"x"']
)
def test_a_line_that_is_no_outcome_is_forgotten(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_bytes(line + b"\n")
    append_outcome(make_job(JOB), tmp_path, outcome(1))
    assert [found.seed for found in load_outcomes(tmp_path)] == [1]


def test_what_is_no_number_is_null_in_the_file_and_nan_again_here(tmp_path):
    append_outcome(make_job(JOB), tmp_path, outcome(0, accuracy=float("inf"), development=float("nan")))
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    (found,) = load_outcomes(tmp_path)
    assert math.isnan(found.development)
    assert math.isnan(found.measures["accuracy"])


def test_nothing_is_kept_where_nothing_is_written(tmp_path):
    append_outcome(make_job(JOB), None, outcome(0))
    assert list(load_outcomes(None)) == list(load_outcomes(tmp_path)) == []


def test_only_the_first_of_several_processes_writes(tmp_path, monkeypatch):
    two = make_job({**JOB, "devices": 2, "strategy": "ddp"})
    if not torch.cuda.is_available():
        assert is_rank_zero(two)
        monkeypatch.setenv("LOCAL_RANK", "1")
        assert not is_rank_zero(two)
        append_outcome(two, tmp_path, outcome(0))
        assert list(tmp_path.iterdir()) == []


SRUN = {"SLURM_NTASKS": "8", "SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_NODEID": "0", "SLURM_JOB_ID": "1"}


@pytest.mark.parametrize(
    "variables", [{"SLURM_PROCID": "3"}, SRUN, {**SRUN, "SLURM_NTASKS_PER_NODE": "8"}, {"LOCAL_RANK": "1", "RANK": "1"}]
)
def test_a_job_on_one_device_is_alone_whatever_a_scheduler_says(variables, tmp_path, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_rank_zero(make_job(JOB))
    assert is_rank_zero(make_job({**JOB, "devices": 1}))
    assert open_fabric(accelerator="cpu").is_global_zero
    append_outcome(make_job(JOB), tmp_path, outcome(0))
    assert len(list(load_outcomes(tmp_path))) == 1


def test_ranks_of_a_scheduler_count_where_they_work_together(monkeypatch):
    for name, value in {**SRUN, "SLURM_NTASKS_PER_NODE": "8"}.items():
        monkeypatch.setenv(name, value)
    if not torch.cuda.is_available():
        assert not is_first_rank(devices=8, strategy="ddp")
        monkeypatch.setenv("SLURM_PROCID", "0")
        monkeypatch.setenv("SLURM_LOCALID", "0")
        assert is_first_rank(devices=8, strategy="ddp")


def test_what_kills_have_left_is_swept_and_nothing_else(tmp_path):
    kept_files = ["result.json", "arms/distilled/seed-0/checkpoint.safetensors", "arms/distilled/seed-0/my.partial"]
    seed = "arms/distilled/seed-0"
    killed = ["result.json", f"{seed}/checkpoint.safetensors", f"{seed}/run.json", "teacher/answers.safetensors"]
    for name in kept_files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("whole")
    for path in [tmp_path / name for name in killed]:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial_path(path).write_text("half")  # as `atomic_write` leaves it where the process is killed
    (tmp_path / seed / ".student.new.partial").mkdir()
    assert len(list(tmp_path.rglob(".*"))) == len(killed) + 1
    remove_partial_files(tmp_path)
    assert sorted(one.relative_to(tmp_path).as_posix() for one in tmp_path.rglob("*") if one.is_file()) == sorted(
        kept_files
    )
    assert not list(tmp_path.rglob(".*"))


def test_a_file_is_replaced_whole(tmp_path):
    write_text("one", tmp_path / "a")
    write_text("two", tmp_path / "a")
    assert (tmp_path / "a").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_plain_is_json():
    value = {"a": [float("nan"), -float("inf"), 1.5], "b": {"c": (1, "x", None, True)}}
    assert to_json_safe(value) == {"a": [None, None, 1.5], "b": {"c": [1, "x", None, True]}}
    json.dumps(to_json_safe(value), allow_nan=False)


def test_a_run_may_go_on_elsewhere_and_with_other_workers(tmp_path):
    write_text(job_text(make_job({**JOB, "out": "old"})), tmp_path / "job.yaml")
    job = make_job({**JOB, "out": str(tmp_path), "workers": 2})
    assert check_folder(job, resume=True) == tmp_path
    data = {"name": JOB["data"], "num_workers": 3}
    job = make_job({**JOB, "out": str(tmp_path), "data": data})
    assert check_folder(job, resume=True) == tmp_path
    with pytest.raises(LimbeckError, match="another job: its data"):
        check_folder(make_job({**JOB, "out": str(tmp_path), "data": {**data, "size": 8}}), resume=True)


@pytest.mark.parametrize("change", [{"seeds": 2}, {"method": "logit_matching"}, {"budget": {"epochs": 3}}])
def test_another_job_may_not(tmp_path, change):
    write_text(job_text(make_job(JOB)), tmp_path / "job.yaml")
    with pytest.raises(LimbeckError, match=f"another job: its {next(iter(change))}"):
        check_folder(make_job({**JOB, **change, "out": str(tmp_path)}), resume=True)


def test_a_full_folder_without_a_job_is_no_run(tmp_path):
    (tmp_path / "note").write_text("mine")
    job = make_job({**JOB, "out": str(tmp_path)})
    with pytest.raises(LimbeckError, match="no run's folder"):
        check_folder(job, resume=True)
    with pytest.raises(LimbeckError, match="limbeck resume"):
        check_folder(job, resume=False)


def test_a_run_that_was_killed_before_its_job_was_written_leaves_its_folder_free(tmp_path):
    job = make_job({**JOB, "out": str(tmp_path)})
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "config.json").write_text("half")
    (tmp_path / "job.yaml.partial").write_text("data: dig")
    with pytest.raises(LimbeckError, match="already holds something"):
        check_folder(job, resume=False)  # without a lock nobody knows whose these are
    (tmp_path / ".lock").touch()
    assert check_folder(job, resume=False) == tmp_path
    initialize_folder(job, tmp_path, lambda: (tmp_path / "student").mkdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".places.json", "job.yaml", "student"]
    assert list((tmp_path / "student").iterdir()) == []
    (tmp_path / "job.yaml").unlink()
    (tmp_path / "mine").touch()
    with pytest.raises(LimbeckError, match="already holds something"):
        check_folder(job, resume=False)


def test_an_empty_or_missing_folder_is_free(tmp_path):
    for folder in (tmp_path, tmp_path / "new" / "er"):
        for resume in (False, True):
            assert check_folder(make_job({**JOB, "out": str(folder)}), resume=resume) == folder
    assert check_folder(make_job(JOB), resume=False) is None
    assert not (tmp_path / "new").exists()
