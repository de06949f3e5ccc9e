"""The job files of the tables: they open, their methods build, and no method is missing without a reason."""

from __future__ import annotations

import pytest

from limbeck.job import make_job, read_job
from limbeck.methods import make, method, names
from limbeck.models import build
from tools.table_jobs import EXCLUDED, NETWORKS, TABLES, applies, predict_gpu_hours, updated_jobs

CONTROLS = ("teacher", "student alone", "label smoothing", "shuffled teacher", "distilled")


@pytest.mark.parametrize("table", NETWORKS)
def test_a_table_opens_with_all_methods_that_apply_and_the_controls(table):
    job = make_job(read_job(str(TABLES / f"{table}.yaml")))
    assert [one.name for one in job.methods] == [name for name in names("classification") if applies(name, table)]
    assert (job.arms, job.seeds) == (CONTROLS, 5)
    # Equal budgets: no arm has a length or a learning rate of its own before the search.
    assert not job.budgets
    assert not any("epochs" in settings.hyper for settings in job.methods)


@pytest.mark.parametrize("table", [name for name in NETWORKS if name != "sst2"])
def test_every_method_of_a_table_builds(table):
    job = make_job(read_job(str(TABLES / f"{table}.yaml")))
    teacher = build("resnet8", channels=3, classes=10)
    for settings in job.methods:
        call = method(settings.name)
        own = {"teacher": teacher} if call.has_teacher else {}
        make(settings.name, **own, **settings.hyper)


def test_job_files_are_current():
    assert [path.name for path, text in updated_jobs().items() if path.read_text(encoding="utf-8") != text] == []


def test_a_method_is_in_a_table_or_has_a_reason():
    known = set(names())
    assert set(EXCLUDED) <= known
    left_out = [
        name for name in names("classification") if name not in EXCLUDED and not any(applies(name, t) for t in NETWORKS)
    ]
    assert left_out == []


def test_gpu_hours_follow_from_multiplications():
    hours = predict_gpu_hours(teraflops=10.0)
    assert hours["one run alone"] < hours["one distilled run"] < hours["all"]
    assert hours["all"] == pytest.approx(2 * predict_gpu_hours(teraflops=20.0)["all"])
