"""Boosted trees and forests as students of a job: fitted to soft labels, judged with controls, exported as they are."""

from __future__ import annotations

import json
import sys

import joblib
import numpy as np
import pytest
import torch

from job_events import collect_messages
from limbeck.cli.jobs import opening_lines
from limbeck.compare import run_job
from limbeck.compare.tuning import tune
from limbeck.errors import LimbeckError
from limbeck.export import export_run, open_student
from limbeck.job import export_options, job_text, make_job, read_job
from small_jobs import blobs, small_job

opening_code = sys.modules["limbeck.job.opening_code"]
TREES = {"estimator": "random_forest", "n_estimators": 8, "max_depth": 6}
ARMS = ["teacher", "student alone", "label smoothing", "shuffled teacher", "distilled"]


def job_of(folder, **changes):
    data = blobs(folder / "blobs.npz")
    return make_job({**small_job(data, student=TREES), "seeds": 2, "out": str(folder / "run"), **changes})


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished job with a forest as the student of a network: its folder, its result, and what was said."""
    folder, said = tmp_path_factory.mktemp("trees"), []
    budget = {"epochs": 15, "lr": 0.01, "batch_size": 16}
    result = run_job(job_of(folder, arms=ARMS, budget=budget), callback=collect_messages(said))
    return folder / "run", result, said


def test_all_arms_are_judged(done):
    _, result, said = done
    rows = result["arms"]
    assert set(rows) == set(ARMS)
    assert rows["distilled"]["accuracy"]["mean"] > 0.6
    assert rows["shuffled teacher"]["accuracy"]["mean"] < rows["distilled"]["accuracy"]["mean"]
    assert set(result["verdict"]["against"]) == {"label smoothing", "shuffled teacher"}
    assert any("the estimator random_forest" in line for line in said)
    assert not any("optimizer steps" in line for line in said)


def test_the_page_compares_sizes_and_times_of_both_kinds(done):
    run, result, _ = done
    for arm in ("student alone", "distilled"):
        row = result["arms"][arm]
        assert row["parameters"] is None
        assert row["megabytes"] > 0.001
        assert row["milliseconds"] > 0
        assert "RandomForestClassifier" in row["size_note"]
    page = (run / "report.html").read_text()
    assert "RandomForestClassifier has no parameters" in page


def test_the_student_is_saved_and_exported_as_it_is(done, tmp_path):
    run = done[0]
    again = open_student(run, trust=True)
    found = export_run(run, to="joblib", out=tmp_path / "out", trust=True)
    assert found.score_before == found.score_after
    forest = joblib.load(found.path)
    rows = torch.rand(7, 36)
    np.testing.assert_allclose(
        again(rows).exp().numpy(), np.maximum(forest.predict_proba(rows.numpy()), 1e-6), atol=1e-4
    )
    assert "joblib.load" in (found.path.parent / "README.md").read_text()
    with pytest.raises(LimbeckError, match="--to joblib"):
        export_run(run, to="onnx", out=tmp_path / "onnx", trust=True)
    with pytest.raises(LimbeckError, match="trust"):
        export_run(run, to="joblib", out=tmp_path / "other")


def test_the_typed_lines_open_and_export_an_estimator(done):
    run = done[0]
    lines = opening_lines(run)
    names = {}
    exec("\n".join(lines), names)
    assert names["student"].predict_proba(np.zeros((2, 36))).shape == (2, done[1]["data"]["classes"])
    assert export_options(run / "student", run) == "--to joblib --trust"
    page = (run / "report.html").read_text()
    assert "--to joblib --trust" in page
    assert "--to onnx" not in page
    assert "joblib.load(" in page
    assert "limbeck.load(" not in page


def test_a_student_of_a_python_file_is_exported_with_trust(tmp_path, monkeypatch):
    (tmp_path / "my.py").write_text("")
    run = tmp_path / "run"
    run.mkdir()
    for model, options in (("my.py:build", "--to onnx --trust"), ("mlp", "--to onnx")):
        (run / "job.yaml").write_text(job_text(make_job(small_job("digits", student={"model": model}))))
        monkeypatch.setattr(opening_code, "read_config", lambda folder: {})
        monkeypatch.setattr(opening_code, "loads_without_code", lambda config: False)
        assert opening_code.export_options(run / "student", run) == options


def test_a_job_that_goes_on_keeps_what_is_done(done):
    run, result, _ = done
    again = run_job(make_job({**json.loads(json.dumps(job_dump(run))), "out": str(run)}), resume=True)
    assert again["arms"]["distilled"]["accuracy"] == result["arms"]["distilled"]["accuracy"]


def job_dump(run):
    from limbeck.job import read_run_job

    return read_run_job(run)


def test_seeds_have_other_random_states(done):
    values = done[1]["arms"]["student alone"]["measures"]["nll"]["values"]
    assert values[0] != values[1]


def test_a_regressor_learns_the_mixture_of_targets_and_predictions(tmp_path):
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(120, 3)).astype(np.float32)
    targets = (10 + 2 * inputs[:, 0] + 0.1 * draw.normal(size=120)).astype(np.float32)
    np.savez(
        tmp_path / "numbers.npz", x_train=inputs[:90], y_train=targets[:90], x_test=inputs[90:], y_test=targets[90:]
    )
    student = {"estimator": "hist_gradient_boosting", "max_iter": 20}
    job = small_job(tmp_path / "numbers.npz", student=student, seeds=1, arms=["teacher", "student alone", "distilled"])
    budget = {"epochs": 40, "lr": 0.01, "batch_size": 16}
    result = run_job(make_job({**job, "task": "regression", "budget": budget}))
    assert result["arms"]["distilled"]["r2"]["mean"] > 0.3


def test_a_forest_by_name_teaches_a_network(tmp_path):
    models = {"student": {"model": "mlp", "hidden": [6]}, "teacher": {"estimator": "extra_trees", "n_estimators": 5}}
    job = job_of(tmp_path, **models, seeds=1, arms=["teacher", "distilled"])
    assert run_job(job)["arms"]["teacher"]["accuracy"]["mean"] > 0.6


FILE = """
from sklearn.linear_model import RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

def neighbors():
    return KNeighborsClassifier()

def ridge():
    return RidgeClassifier()

def numbers():
    return KNeighborsRegressor()
"""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"student": "FILE:neighbors"}, "sample_weight"),
        ({"student": "FILE:ridge"}, "predict_proba"),
        ({"student": "FILE:numbers"}, "numbers"),
        ({"method": {"name": "fitnets"}}, "fitnets|needs"),
        ({"method": {"name": "dkd"}}, "dkd"),
        ({"method": {"name": "hinton", "temperature": 4}}, "temperature"),
        ({"student": {**TREES, "quantize": "int8"}}, "quantize"),
        ({"student": {**TREES, "n_estimator": 3}}, "n_estimators"),
        ({"student": {"estimator": "random_tree"}}, "random_tree"),
        ({"student": {"estimator": "random_forest", "model": "mlp"}}, "two models"),
    ],
)
def test_errors_come_before_anything_is_trained(tmp_path, changes, words):
    (tmp_path / "own.py").write_text(FILE)
    own = {key: value.replace("FILE", str(tmp_path / "own.py")) if isinstance(value, str) else value
           for key, value in changes.items()}  # fmt: skip
    said = []
    with pytest.raises(LimbeckError, match=words):
        run_job(job_of(tmp_path, **own), callback=collect_messages(said))
    assert not any("Training" in line for line in said)
    assert not (tmp_path / "run").exists()


def test_a_search_tries_the_arguments_of_an_estimator_for_each_arm(tmp_path):
    student = {"estimator": "decision_tree", "max_depth": 3, "random_state": 0}
    job = job_of(tmp_path, student=student, arms=["teacher", "student alone", "label smoothing", "distilled"], seeds=1)
    result = tune(job.model_copy(update={"out": str(tmp_path / "search")}), trials=3, ranges={"max_depth": (2, 6)})
    searched = {"min_samples_leaf", "ccp_alpha", "max_depth"}
    assert {arm: set(row["searched"]) for arm, row in result["arms"].items()} == {
        "student alone": searched, "label smoothing": searched | {"smoothing"}, "distilled": searched | {"weight"},
    }  # fmt: skip
    own = result["arms"]["student alone"]["own"]["values"]
    assert (own["max_depth"], own["min_samples_leaf"], own["ccp_alpha"]) == (3, 1, 0.0)
    best = make_job({**read_job(tmp_path / "search" / "best.yaml"), "out": str(tmp_path / "best"), "seeds": 1})
    for arm, row in result["arms"].items():
        chosen = row["best"]["values"]
        assert best.of_arm(arm).student.arguments["max_depth"] == chosen["max_depth"]
    assert best.method.hyper["weight"] == result["arms"]["distilled"]["best"]["values"]["weight"]
    done = run_job(best)
    tree = joblib.load(tmp_path / "best" / "arms" / "student-alone" / "seed-0" / "student" / "estimator.joblib")
    assert tree.max_depth == result["arms"]["student alone"]["best"]["values"]["max_depth"]
    assert set(done["arms"]) == {"teacher", "student alone", "label smoothing", "distilled"}
    assert "were changed" not in (tmp_path / "best" / "report.html").read_text()


def test_arguments_of_an_estimator_are_refused_for_a_network(tmp_path):
    job = job_of(
        tmp_path, student={"model": "mlp", "hidden": [4]}, budgets={"student alone": {"student": {"hidden": [8]}}}
    )
    with pytest.raises(LimbeckError, match=r"budgets\.student alone\.student"):
        run_job(job)
