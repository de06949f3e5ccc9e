"""A scikit-learn estimator as a job's teacher: fitted by its function or by the job, and judged like any other."""

from __future__ import annotations

import io
import shutil

import pytest
import torch
from rich.console import Console

from job_events import collect_messages
from limbeck.compare import run_job
from limbeck.compare.estimator import unknown_sizes
from limbeck.errors import LimbeckError
from limbeck.export import export_run
from limbeck.job import make_job
from limbeck.report import arms_table, table_notes
from limbeck.report.arms import ScoreFormat, read_arms
from limbeck.report.costs import cost_figures
from results import arm
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


def printed(result):
    paper = io.StringIO()
    Console(width=120, file=paper).print(arms_table(result))
    return paper.getvalue().splitlines()


def job_of(tmp_path, function, **changes):
    (tmp_path / "trees.py").write_text(FILE)
    data = blobs(tmp_path / "blobs.npz")
    teacher = {"model": f"{tmp_path / 'trees.py'}:{function}"}
    return make_job({**small_job(data, teacher=teacher, seeds=1), "out": str(tmp_path / "run"), **changes})


@pytest.fixture(scope="module")
def forest(tmp_path_factory):
    """A finished job: its folder, its result, and what was said. Only read."""
    folder, said = tmp_path_factory.mktemp("forest"), []
    result = run_job(job_of(folder, "forest"), callback=collect_messages(said))
    return folder / "run", result, said


def test_the_job_fits_it_and_judges_it_like_any_teacher(forest):
    run, result, said = forest
    assert any("Fitting the teacher: RandomForestClassifier" in line for line in said)
    teacher = result["arms"]["teacher"]
    assert teacher["accuracy"]["mean"] > 0.6
    assert teacher["milliseconds"] > 0
    assert (run / "report.html").is_file()


def test_what_it_weighs_is_its_pickle_and_its_parameters_are_unknown(forest):
    run, result, _ = forest
    row = result["arms"]["teacher"]
    assert row["parameters"] is None
    assert row["megabytes"] > 0.001
    assert row["cost"]["disk_bytes"] == round(1e6 * row["megabytes"])
    assert row["cost"]["parameters"] is row["cost"]["macs"] is None
    shown = [line.split() for line in printed(result)]
    mine = next(words for words in shown if words[:1] == ["teacher"])
    assert "-" in mine
    assert "0.000" not in mine
    assert "RandomForestClassifier" in table_notes(result)
    page = (run / "report.html").read_text()
    assert "RandomForestClassifier has no parameters" in page
    size = page.split("Against size")[1].split("</figure>")[0]
    assert "teacher" in size


def test_a_module_without_a_single_tensor_has_no_known_size():
    cost = {"parameters": 0, "macs": 0, "disk_bytes": 8, "milliseconds_p50_batch_1": 0.1, "threads": 1}
    found = unknown_sizes([torch.nn.Identity()], cost)
    assert (found["parameters"], found["megabytes"]) == (None, None)
    assert "Identity" in found["size_note"]
    assert found["cost"] == {**cost, "parameters": None, "macs": None, "disk_bytes": None}
    assert unknown_sizes([torch.nn.Linear(2, 2)], cost) == {}


def test_a_size_front_names_who_is_not_on_it():
    rows = {name: arm([0.9, 0.8]) for name in ("teacher", "student alone", "distilled")}
    rows["teacher"] |= {"parameters": None, "megabytes": None}
    drawn = cost_figures(list(read_arms(rows).values()), ScoreFormat())
    assert "size is not known: teacher" in drawn.split("Against size")[1]
    assert "Not drawn" not in drawn.split("Against size")[0]


def test_a_card_says_why_a_size_is_missing(forest, tmp_path):
    export_run(forest[0], to="folder", out=tmp_path / "shipped", trust=True)
    card = (tmp_path / "shipped" / "README.md").read_text()
    line = next(line for line in card.splitlines() if line.startswith("| teacher"))
    assert line.split("|")[4].strip() == "-"
    assert "RandomForestClassifier has no parameters" in card


def test_one_that_was_fitted_is_asked_as_it_is(tmp_path):
    job = job_of(tmp_path, "fitted", teacher={"model": f"{tmp_path / 'trees.py'}:fitted", "check": False})
    said = []
    run_job(job, callback=collect_messages(said))
    assert any("fitted RandomForestClassifier" in line for line in said)


@pytest.mark.parametrize("function", ["regressor"])
def test_what_has_no_probabilities_is_refused_before_anything_is_written(tmp_path, function):
    with pytest.raises(LimbeckError, match="RandomForestRegressor"):
        run_job(job_of(tmp_path, function))
    assert not (tmp_path / "run").exists()


def test_several_members_are_refused(tmp_path):
    job = job_of(tmp_path, "forest", teacher={"model": f"{tmp_path / 'trees.py'}:forest", "members": 2})
    with pytest.raises(LimbeckError, match="members"):
        run_job(job)


def test_a_resumed_job_whose_estimator_answers_otherwise_stops(forest, tmp_path):
    from limbeck.metrics import load_tensors, save_tensors

    out = shutil.copytree(forest[0], tmp_path / "run")
    job = job_of(forest[0].parent, "forest", out=str(out))
    kept = {name: tensor.clone() for name, tensor in load_tensors(out / "teacher" / "answers.safetensors").items()}
    (out / "result.json").unlink()
    run_job(job, resume=True)  # with a random_state it goes on
    kept["test"] = torch.randn_like(kept["test"])
    save_tensors(kept, out / "teacher" / "answers.safetensors")
    (out / "result.json").unlink()
    with pytest.raises(LimbeckError, match="random_state"):
        run_job(job, resume=True)
