"""Rows that a loaded teacher may have learnt from are said; others are not."""

from __future__ import annotations

import numpy as np
import pytest

import limbeck as lb
from job_events import collect_messages
from limbeck.compare import run_job
from limbeck.compare.comparison_data import load_comparison_data
from limbeck.compare.dry_run import find_seen_rows
from limbeck.job import make_job
from limbeck.models import open_model
from limbeck.report.page import report_page
from limbeck.report.run_data import read_run
from small_jobs import blobs, small_job


@pytest.fixture
def data(tmp_path):
    return blobs(tmp_path / "d.npz", classes=3, train=90, test=30)


@pytest.fixture
def one_part(tmp_path, data):
    arrays = np.load(data)
    np.savez(tmp_path / "one.npz", x=arrays["x_train"], y=arrays["y_train"])
    return tmp_path / "one.npz"


@pytest.fixture
def saved(tmp_path):
    lb.save(open_model("mlp", input_shape=(1, 6, 6), classes=3, hidden=[8]), tmp_path / "teacher")
    return str(tmp_path / "teacher")


def seen(data, teacher):
    job = make_job(small_job(data, teacher=teacher))
    found = find_seen_rows(job, load_comparison_data(job), {})
    return None if found is None else found["parts"]


def test_parts_that_were_carved_are_named_for_a_loaded_teacher_alone(data, one_part, saved):
    assert seen(data, {"model": saved}) == ["development"]
    assert seen(one_part, {"model": saved}) == ["development", "test"]
    assert seen(one_part, {"model": "mlp", "hidden": [8]}) is None


def test_it_is_reported_and_stands_in_the_result_and_on_the_page(tmp_path, one_part, saved):
    told = list[str]()
    run = tmp_path / "run"
    asked = small_job(one_part, teacher={"model": saved, "check": False}, seeds=1, arms=["student alone", "distilled"])
    result = run_job(make_job({**asked, "out": str(run)}), callback=collect_messages(told))
    sentence = result["teacher_may_have_seen"]["sentence"]
    assert result["teacher_may_have_seen"]["parts"] == ["development", "test"]
    assert sentence in told
    assert sentence in report_page([read_run(run)])
