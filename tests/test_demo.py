"""The demo, in small."""

from __future__ import annotations

import limbeck as lb
from limbeck.compare.comparison_data import load_comparison_data
from limbeck.compare.student_start import make_student
from limbeck.compare.teacher import open_teacher
from limbeck.demo import DESCRIPTION, demo_job
from limbeck.models import count_parameters, load


def test_the_demos_job_is_what_its_story_says():
    job = lb.make_job(demo_job("somewhere", seeds=5))
    material = load_comparison_data(job)
    assert job.data == "digits"
    assert job.arms == ("teacher", "student alone", "label smoothing", "distilled")
    assert len(material.data.test) >= 1000
    assert not set(material.train.ids.tolist()) & set(material.development.ids.tolist())
    _, members = open_teacher(job, material)
    teacher = sum(count_parameters(model) for model in members.values())
    assert teacher >= 10 * count_parameters(make_student(job, material, seed=0))
    assert len(members) == 5
    assert str(len(material.train)) in DESCRIPTION
    assert (job.seeds, job.out) == (5, "somewhere")


def test_a_reduced_demo_ends_in_a_verdict(tmp_path):
    found = demo_job(str(tmp_path / "demo"), seeds=2)
    found["teacher"] |= {"members": 2, "train": {**found["teacher"]["train"], "epochs": 20}}
    found |= {"budget": {**found["budget"], "epochs": 10}, "workers": 1}
    result = lb.run_job(lb.make_job(found))
    teacher, distilled = result["arms"]["teacher"], result["arms"]["distilled"]
    assert result["data"]["test"] == 1000
    assert teacher["accuracy"]["mean"] > 0.8
    member = result["arms"]["one member"]
    assert len(member["accuracy"]["values"]) == 2
    assert member["parameters"] * 2 == teacher["parameters"]
    assert 0.5 < min(member["accuracy"]["values"]) <= max(member["accuracy"]["values"]) < 1
    assert member["agreement"] < teacher["agreement"] == 1
    assert distilled["parameters"] * 4 < teacher["parameters"]
    assert distilled["megabytes"] < teacher["megabytes"]
    assert result["verdict"]["interval"][0] < result["verdict"]["difference"] < result["verdict"]["interval"][1]
    assert (tmp_path / "demo" / "result.svg").exists()
    assert count_parameters(load(tmp_path / "demo" / "student")) == distilled["parameters"]
