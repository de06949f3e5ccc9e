"""A stopped job loses nothing and ends like an uninterrupted one."""

from __future__ import annotations

import json
import re
import signal

import pytest

import limbeck
from limbeck.atomic_io import folder_lock
from limbeck.compare import run_job
from limbeck.errors import LimbeckError
from limbeck.job import make_job, read_job
from small_jobs import accuracies, blobs, contents, forked, job_file, refused, small_job, stopped, typed_here, weights

# A checkpoint at every step, so that a kill finds runs half done; in a job it is every half minute.
SCRIPT = """
import sys
from functools import partial
import limbeck.compare.comparison_data as material
from limbeck.cli import main
material.TrainConfig = partial(material.TrainConfig, checkpoint_seconds=0.0, log_every=5)
if __name__ == "__main__":
    main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The job that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    job = small_job(
        blobs(folder / "blobs.npz", train=300),
        teacher={"model": "mlp", "hidden": [32], "dropout": 0.2, "members": 2},
        student={"model": "cnn", "widths": [2], "dropout": 0.2},
        budget={"epochs": 4, "lr": 0.01, "batch_size": 16, "shift": 1},
        arms=["teacher", "student alone", "distilled"],
    )
    job_file(folder / "job.yaml", job)
    (folder / "often.py").write_text(SCRIPT)
    ended = typed_here("distill", "job.yaml", "--out", "whole", "--json", cwd=folder)
    assert ended.code == 0, ended.err
    return folder, ended.result


def moments(out):
    """When to stop: name -> whether it is time."""
    arms = out / "arms"

    def half_done(run):
        return (run / "metrics.jsonl").exists() and 3 <= len((run / "metrics.jsonl").read_text().splitlines()) < 10

    return {
        "at once": lambda: (out / "job.yaml").exists(),
        "in the teacher": lambda: half_done(out / "teacher" / "branches" / "0-1"),
        "between arms": lambda: (out / "metrics.jsonl").exists(),
        "in an arm": lambda: half_done(arms / "distilled" / "seed-0"),
        "in the last arm": lambda: half_done(arms / "distilled" / "seed-1"),
    }


def ends_as_if_nothing_had_happened(folder, result, out):
    student = limbeck.load(folder / out / "student")
    assert student.training is False
    again = typed_here("resume", out, "--json", cwd=folder)
    assert again.code == 0, again.err
    assert accuracies(again.result) == accuracies(result)
    for run in ("student", "arms/distilled/seed-1/student", "arms/student-alone/seed-0/student"):
        assert weights(folder / out / run) == weights(folder / "whole" / run)
    assert again.result["arms"]["distilled"]["measures"] == result["arms"]["distilled"]["measures"]


SOAK = [
    pytest.param(moment, marks=pytest.mark.soak)
    for moment in ("at once", "in the teacher", "between arms", "in the last arm")
]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["in an arm", *SOAK])
def test_a_killed_job_ends_in_the_same_weights(whole, moment):
    folder, result = whole
    out = "killed " + moment
    words = ["often.py", "distill", "job.yaml", "--out", out, "--json"]
    assert stopped(words, cwd=folder, when=moments(folder / out)[moment], by=signal.SIGKILL), "it was never stopped"
    ends_as_if_nothing_had_happened(folder, result, out)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["in an arm", *SOAK])
def test_ctrl_c_says_what_is_on_disk(whole, moment):
    folder, result = whole
    out = f"ctrl-c {moment}"
    words = ["often.py", "distill", "job.yaml", "--out", out, "--json"]
    ended = stopped(words, cwd=folder, when=moments(folder / out)[moment], by=signal.SIGINT)
    assert ended is not None
    assert ended.code == 130
    assert ended.out == ""
    assert "Traceback" not in ended.err
    assert ended.err.splitlines()[-1].startswith("Interrupted. ")
    assert f"limbeck resume '{out}'" in ended.err
    ends_as_if_nothing_had_happened(folder, result, out)


@pytest.mark.soak
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
def test_processes_side_by_side_can_be_stopped_too(whole, by):
    folder, result = whole
    out = f"beside-{by.name}"
    words = ["often.py", "distill", "job.yaml", "--set", "workers=2", "--out", out, "--json"]
    first = folder / out / "arms" / "distilled" / "seed-0" / "metrics.jsonl"
    ended = stopped(words, cwd=folder, when=first.exists, by=by, fresh=True)
    assert ended is not None
    if by is signal.SIGINT:
        assert ended.code == 130
        # Python itself says so where the signal meets a weak reference's callback, in which nothing can be raised.
        own = re.sub(r"Exception ignored in.*?KeyboardInterrupt: *\n", "", ended.err, flags=re.S)
        assert "Traceback" not in own
        assert f"limbeck resume {out}" in ended.err
    ends_as_if_nothing_had_happened(folder, result, out)


def test_a_finished_run_shows_its_result_again(whole):
    folder, result = whole
    before = (folder / "whole" / "result.json").stat().st_mtime_ns
    again = typed_here("resume", "whole", "--json", cwd=folder)
    assert again.code == 0
    assert again.result == result
    assert "is finished" in again.err
    assert (folder / "whole" / "result.json").stat().st_mtime_ns == before


def test_a_finished_run_with_a_damaged_job_file_says_so(whole):
    folder, result = whole
    job = folder / "whole" / "job.yaml"
    text = job.read_text()
    try:
        job.write_text(text.replace("epochs:", "epoch:", 1))
        again = typed_here("resume", "whole", "--json", cwd=folder)
    finally:
        job.write_text(text)
    assert again.result == result
    assert "job.yaml was edited or is damaged" in again.err


@pytest.mark.slow
def test_an_arm_that_is_done_is_not_run_again(whole):
    folder, result = whole
    out = "kept"
    words = ["often.py", "distill", "job.yaml", "--out", out, "--json"]
    assert stopped(words, cwd=folder, when=moments(folder / out)["in the last arm"], by=signal.SIGKILL)
    marked = [json.loads(line) for line in (folder / out / "metrics.jsonl").read_text().splitlines()]
    marked[0]["measures"]["nll"] = 7.0
    del marked[0]["crc32"]  # a line without one is taken for one of an earlier version
    torn = '{"arm": "distilled", "seed": 1, "meas'
    (folder / out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in marked) + torn)
    again = typed_here("resume", out, "--json", cwd=folder)
    assert again.code == 0, again.err
    assert again.result["arms"]["student alone"]["measures"]["nll"]["values"][0] == 7.0
    assert accuracies(again.result) == accuracies(result)


def test_two_do_not_resume_one_folder(tmp_path):
    """The second is told so; the first goes on, and so does whoever comes after it."""
    job = small_job(blobs(tmp_path / "blobs.npz"), seeds=1)
    job_file(tmp_path / "job.yaml", job)
    (tmp_path / "often.py").write_text(SCRIPT)
    out = tmp_path / "out"
    began = ["often.py", "distill", "job.yaml", "--out", "out"]
    assert stopped(began, cwd=tmp_path, when=lambda: (out / "teacher").exists(), by=signal.SIGKILL) is not None
    before = contents(out)
    with folder_lock(out):
        refused(forked("-m", "limbeck", "resume", "out", cwd=tmp_path), "out is being run already, by another process")
        with pytest.raises(LimbeckError, match="another run of this process"):
            run_job(make_job({**read_job(out / "job.yaml"), "out": str(out)}), resume=True)
        during = contents(out)
    assert {**during, ".lock": None} == {**before, ".lock": None}
    ended = typed_here("resume", "out", "--json", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert not (out / ".lock").exists()


def test_an_interrupt_while_data_are_read_says_what_to_type(tmp_path, monkeypatch, capsys):
    from limbeck.cli import main

    def interrupted(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("limbeck.compare.comparison_data.load_in_order", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["distill", "--data", "digits", "--teacher", "mlp", "--student", "mlp", "--set", "teacher.hidden=[4]",
              "--set", "student.hidden=[4]"])  # fmt: skip
    assert ended.value.code == 130
    assert "Interrupted before anything was written" in capsys.readouterr().err
