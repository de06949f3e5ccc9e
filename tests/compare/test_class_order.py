"""A job's data take the class order of a teacher with class names."""

from __future__ import annotations

import pytest

import limbeck as lb
from limbeck.compare import checkup
from limbeck.compare.comparison_data import load_in_order
from limbeck.errors import LimbeckError
from limbeck.job import make_job, read_job
from limbeck.models import build
from small_jobs import small_job

pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'limbeck[table]'")


@pytest.fixture
def job(tmp_path):
    """A table of three classes, and a teacher that was trained with them in another order."""
    order = ["low", "mid", "High"]
    rows = "".join(f"{i % 3 + i % 2 / 9},{i % 5},{('low', 'mid', 'high')[i % 3]}\n" for i in range(120))
    (tmp_path / "a.csv").write_text("x,z,y\n" + rows)
    data = lb.load_data(tmp_path / "a.csv", target="y", class_names=["low", "mid", "high"])
    teacher = build("mlp", inputs=2, classes=3, hidden=[16], seed=0)
    learn = lb.Stage(lb.Loss(lb.functional.cross_entropy), epochs=12)
    lb.distill(teacher, learn, data.train, batch_size=16, accelerator="cpu", optimizer=lb.Optimizer(lr=0.05)).finish()
    lb.save(teacher, tmp_path / "teacher", metadata={"class_names": order})
    spec = {"name": str(tmp_path / "a.csv"), "target": "y"}
    return small_job(spec, teacher=str(tmp_path / "teacher"), seeds=1, arms=["distilled"], out=str(tmp_path / "run"))


def test_the_data_take_the_order_of_the_teacher_and_the_run_keeps_it(job, tmp_path):
    result = lb.run_job(make_job(job))
    assert result["teacher_development_accuracy"] == 1.0
    assert result["data"]["class_names"] == ["low", "mid", "high"]
    assert any("order of the teacher" in note for note in result["data"]["summary"]["notes"])
    assert read_job(tmp_path / "run/job.yaml")["data"]["class_names"] == ["low", "mid", "high"]
    assert lb.models.read_config(tmp_path / "run/student")["metadata"]["class_names"] == ["low", "mid", "high"]
    # The same job, taken up again, is the same job.
    assert lb.run_job(make_job(job), resume=True)["data"]["class_names"] == ["low", "mid", "high"]


def test_an_order_that_is_not_the_teachers_is_refused(job):
    wrong = {**job, "data": {**job["data"], "class_names": ["high", "low", "mid"]}}
    with pytest.raises(LimbeckError, match="label order"):
        lb.run_job(make_job(wrong))
    unchecked = make_job({**wrong, "teacher": {"model": job["teacher"], "check": False}})
    assert load_in_order(unchecked)[0].class_names == ("high", "low", "mid")


def test_a_teacher_without_names_is_detected_by_its_answers(job, tmp_path):
    same = build("mlp", inputs=2, classes=3, hidden=[16], seed=0)
    same.load_state_dict(lb.load(tmp_path / "teacher").state_dict())
    lb.save(same, tmp_path / "nameless")
    nameless = make_job({**job, "teacher": str(tmp_path / "nameless"), "development": 0.4})
    with pytest.raises(LimbeckError, match=r"in another order it would be 100\.0 %"):
        lb.run_job(nameless)
    (found,) = [one for one in checkup(nameless) if one.name == "teacher's accuracy"]
    assert found.state == "wrong"
    assert "label order" in found.sentence
