"""The reference of a job's keys says every key that a job may have, and its true default."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from limbeck.data.options import DataOptions
from limbeck.errors import UnknownNameError
from limbeck.job import Budget, CacheSettings, Job, make_job
from limbeck.job.schema import TeacherSettings, job_keys


def test_every_key_of_every_part_is_there_with_a_meaning():
    keys = {key.name: key for key in job_keys()}
    assert len(keys) == len(job_keys())
    wanted = [*Job.model_fields, *(f"budget.{name}" for name in Budget.model_fields), "data.name"]
    wanted += [f"cache.{name}" for name in CacheSettings.model_fields] + [
        f"teacher.{name}" for name in TeacherSettings.model_fields
    ]
    # `task` is a key of the job, not of its data.
    wanted += [f"data.{field.name}" for field in fields(DataOptions) if field.name != "task"]
    assert set(wanted) <= set(keys)
    assert all(len(key.meaning) > 3 for key in keys.values())


def test_the_defaults_are_those_of_a_job():
    job = make_job(
        {"data": "digits", "teacher": {"model": "mlp", "hidden": [4]}, "student": {"model": "mlp", "hidden": [2]}}
    )
    keys = {key.name: key.default for key in job_keys()}
    assert keys["budget.epochs"] == str(job.budget.epochs)
    assert keys["development"] == str(job.development)
    assert keys["teacher.check"] == "true"
    assert keys["data"] == "needed"


def test_the_command_prints_them(limbeck):
    shown = limbeck("job", "--keys")
    assert shown.code == 0
    assert all(key.name in shown.out for key in job_keys())
    some = json.loads(limbeck("job", "--only", "cache.", "--json").out)
    assert {key["name"] for key in some} == {f"cache.{name}" for name in CacheSettings.model_fields}
    assert limbeck("job", "--only", "bugdet").code == 1
    assert limbeck("job").code == 1


def test_an_unknown_beginning_names_the_nearest():
    from limbeck.cli.methods import show_keys

    with pytest.raises(UnknownNameError, match=r"budget"):
        show_keys("budget.epohcs", as_json=False)
