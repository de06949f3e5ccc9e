"""A scikit-learn estimator as a job's teacher: fitted by its function or by the job, and judged like any other."""

from __future__ import annotations

import pytest
import torch

from limbeck.compare import run_job
from limbeck.errors import LimbeckError
from limbeck.job import make_job
from small_jobs import blobs, small_job

FILE = """
import numpy as np
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
import limbeck as lb

def forest(trees=20):
    return RandomForestClassifier(trees, random_state=0)

def wild():
    return RandomForestClassifier(3)

def fitted():
    draw = np.random.default_rng(0)
    return RandomForestClassifier(3, random_state=0).fit(draw.normal(size=(50, 36)), np.arange(50) % 5)

def regressor():
    return RandomForestRegressor(3)
"""


def job_of(tmp_path, function, **changes):
    (tmp_path / "trees.py").write_text(FILE)
    data = blobs(tmp_path / "blobs.npz")
    teacher = {"model": f"{tmp_path / 'trees.py'}:{function}"}
    return make_job({**small_job(data, teacher=teacher, seeds=1), "out": str(tmp_path / "run"), **changes})


def test_the_job_fits_it_and_judges_it_like_any_teacher(tmp_path):
    said = []
    result = run_job(job_of(tmp_path, "forest"), watch=lambda kind, what: said.append(what) if kind == "say" else None)
    assert any("Fitting the teacher: RandomForestClassifier" in line for line in said)
    teacher = result["arms"]["teacher"]
    assert teacher["accuracy"]["mean"] > 0.6
    assert teacher["milliseconds"] > 0
    assert teacher["parameters"] == 0
    assert (tmp_path / "run" / "report.html").is_file()


def test_one_that_was_fitted_is_asked_as_it_is(tmp_path):
    job = job_of(tmp_path, "fitted", teacher={"model": f"{tmp_path / 'trees.py'}:fitted", "check": False})
    said = []
    run_job(job, watch=lambda kind, what: said.append(what) if kind == "say" else None)
    assert any("fitted RandomForestClassifier" in line for line in said)


@pytest.mark.parametrize("function", ["regressor"])
def test_what_has_no_probabilities_is_refused_before_anything_is_written(tmp_path, function):
    with pytest.raises(LimbeckError, match="predict_proba"):
        run_job(job_of(tmp_path, function))
    assert not (tmp_path / "run").exists()


def test_several_members_are_refused(tmp_path):
    job = job_of(tmp_path, "forest", teacher={"model": f"{tmp_path / 'trees.py'}:forest", "members": 2})
    with pytest.raises(LimbeckError, match="members"):
        run_job(job)


def test_a_resumed_job_whose_estimator_answers_otherwise_stops(tmp_path):
    from limbeck.measure import keep_tensors, kept_tensors

    run_job(job_of(tmp_path, "forest"))
    out = tmp_path / "run"
    kept = {name: tensor.clone() for name, tensor in kept_tensors(out / "teacher" / "answers.safetensors").items()}
    (out / "result.json").unlink()
    run_job(job_of(tmp_path, "forest"), resume=True)  # with a random_state it goes on
    kept["test"] = torch.randn_like(kept["test"])
    keep_tensors(kept, out / "teacher" / "answers.safetensors")
    (out / "result.json").unlink()
    with pytest.raises(LimbeckError, match="random_state"):
        run_job(job_of(tmp_path, "forest"), resume=True)
