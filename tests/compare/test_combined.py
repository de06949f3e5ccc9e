"""The teacher that a method makes is evaluated and saved in the run's folder."""

from __future__ import annotations

import pytest

from limbeck.compare import run_job
from limbeck.job import make_job
from small_jobs import blobs, small_job


@pytest.fixture
def asked(tmp_path):
    def job(method):
        whole = small_job(blobs(tmp_path / "blobs.npz"), method=method, out=str(tmp_path / "run"))
        return make_job({**whole, "arms": ["teacher", "student alone", "distilled"]})

    return job


def test_a_combined_teacher_has_a_row_of_its_own(asked, tmp_path):
    job = asked({"name": "specialists", "groups": [[0, 1], [2, 3]]})
    with pytest.warns(UserWarning, match="in no group of a specialist"):
        result = run_job(job)
    assert list(result["arms"]) == ["teacher", "student alone", "combined teacher", "distilled"]
    row, teacher = result["arms"]["combined teacher"], result["arms"]["teacher"]
    assert row["role"] == "member"
    assert len(row["accuracy"]["values"]) == 2, "one for each seed: the specialists are trained in each run"
    assert 0.2 < row["accuracy"]["mean"] <= 1.0
    assert row["nll"] != teacher["nll"], "it is another teacher than the generalist"
    assert row["parameters"] == 3 * teacher["parameters"]
    assert row["milliseconds"] > 0
    (tmp_path / "run" / "result.json").unlink()
    again = run_job(job, resume=True)
    assert again["arms"]["combined teacher"] == row, "no arm was run again"
    assert "combined teacher" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_a_method_that_learns_from_the_jobs_teacher_has_none(asked):
    assert list(run_job(asked("hinton"))["arms"]) == ["teacher", "student alone", "distilled"]
