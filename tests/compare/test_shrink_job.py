"""Students that a job makes of their teacher: in every arm, exported, resumed, at several sizes, and refused."""

from __future__ import annotations

import json
import math
import shutil

import pytest

import limbeck as lb
from job_events import collect_messages
from limbeck.cli.comparison import resume_comparison
from limbeck.compare import run_students
from limbeck.compare.students import StudentRow, choose_student, read_students
from limbeck.errors import LimbeckError
from limbeck.events import Message, StepsTaken
from limbeck.export import export_run
from limbeck.job import (
    expand_students,
    job_text,
    make_job,
    model_to_build,
    read_job,
    read_shrink_flag,
    with_settings,
)
from limbeck.models import count_parameters
from limbeck.tasks import Classification

MODEL = """
from torch import nn


class Net(nn.Module):
    def __init__(self, classes, layers):
        super().__init__()
        layer = [nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True) for _ in range(layers)]
        self.blocks, self.head = nn.Sequential(*layer), nn.Linear(64, classes)

    def forward(self, x):
        return self.head(self.blocks(x.flatten(1, 2)).flatten(1))


def build(classes=10, layers=4):
    return Net(classes, layers)
"""


@pytest.fixture
def model_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.py").write_text(MODEL)
    return tmp_path


def asked(**changes):
    return make_job({
        "data": "digits", "train_examples": 64, "teacher": {"model": "my.py:build", "check": False},
        "student": {"from": "teacher", "size": 0.6}, "budget": {"epochs": 1, "batch_size": 32},
        "arms": ["teacher", "distilled"], "seeds": 1, **changes,
    })  # fmt: skip


def test_arms_begin_as_the_trained_teacher_and_the_student_opens_and_exports(model_file):
    said = []
    result = lb.run_job(asked(out="run"), callback=collect_messages(said))
    made = result["student"]
    assert (made["by"], made["asked"]) == ("layers", 0.6)
    assert any(made["sentence"] in line for line in said)
    row, teacher = result["arms"]["distilled"], result["arms"]["teacher"]
    assert row["parameters"] == made["parameters"] == round(made["size"] * teacher["parameters"])
    import importlib.util

    spec = importlib.util.spec_from_file_location("my", "my.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    student = lb.load("run/student", build=module.build)
    assert len(student.blocks) == 2
    assert count_parameters(student) == row["parameters"]
    assert model_to_build(read_job("run/job.yaml", as_shown=True)) == {"model": "my.py:build"}
    assert make_job(read_job("run/job.yaml")).student.model == "shrink"
    exported = export_run("run", to="folder", trust=True)
    assert exported.score_after == exported.score_before
    assert made["sentence"][:30] in (exported.path / "README.md").read_text()


@pytest.mark.soak
@pytest.mark.parametrize("to", ["onnx", "int8"])
def test_the_student_exports(model_file, to):
    pytest.importorskip("onnxruntime")
    lb.run_job(asked(out="run"))
    exported = export_run("run", to=to, trust=True)
    assert exported.parity.max_difference < 1e-3 or to == "int8"


def test_a_limit_is_measured_once_and_is_a_size_in_the_job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    teacher = {"model": "resnet8", "width": 4, "check": False}
    job = asked(teacher=teacher, student={"from": "teacher", "bytes": "12kB"}, out="run", arms=["distilled"])
    result = lb.run_job(job)
    written = read_job("run/job.yaml")["student"]
    assert written["bytes"] == "12kB"
    assert 0 < written["size"] < 1
    assert 4 * result["arms"]["distilled"]["parameters"] <= 12_000
    monkeypatch.setattr("limbeck.models.shrinking.size_in_bytes", lambda model: pytest.fail("measured again"))
    # The job of the folder, and the one that was asked for: a comparison of sizes continues with the same command.
    for same in (make_job({**read_job("run/job.yaml"), "out": "run"}), job):
        again = lb.run_job(same, resume=True)
        assert again["arms"]["distilled"]["parameters"] == result["arms"]["distilled"]["parameters"]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    # A folder that began with the teacher of another run.
    (text := tmp_path / "run" / "job.yaml").write_text(job_text(job))
    (tmp_path / "run" / "result.json").unlink()
    lb.run_job(job, resume=True)
    assert read_job(text)["student"]["size"] == written["size"]
    with pytest.raises(LimbeckError, match="student"):
        lb.run_job(asked(teacher=teacher, student={"from": "teacher", "bytes": "9kB"}, out="run", arms=["distilled"]),
                   resume=True)  # fmt: skip


@pytest.mark.parametrize(
    ("student", "named"),
    [
        ({"from": "teacher", "size": 1}, "size"),
        ({"from": "teacher", "size": 0}, "size"),
        ({"from": "teacher", "size": 1.5}, "size"),
        ({"from": "teacher"}, "size"),
        ({"from": "teacher", "size": 0.5, "by": "layer"}, "layers"),
        ({"from": "teacher", "sizes": [0.5, 0.25]}, "compare"),
        ({"from": "theacher", "size": 0.5}, "teacher"),
        ({"from": "teacher", "sise": 0.5}, "size"),
        ({"from": "teacher", "latency": "2 hours"}, "latency"),
    ],
)
def test_a_wrong_student_is_refused_when_the_job_is_read(student, named):
    with pytest.raises(LimbeckError, match=named):
        asked(student=student)


def test_other_teachers_are_refused():
    with pytest.raises(LimbeckError, match="members"):
        asked(teacher={"model": "mlp", "hidden": [8], "members": 2})
    with pytest.raises(LimbeckError, match="teacher"):
        asked(teacher={"model": "shrink", "size": 0.5})


def test_a_size_out_of_reach_is_refused_before_training(model_file):
    with pytest.raises(LimbeckError, match=r"--set student\.size=0\.\d"):
        lb.run_job(asked(student={"from": "teacher", "size": 0.01, "by": "layers"}, out="run"))
    assert not (model_file / "run").exists()


def test_the_job_is_written_and_read_again():
    job = asked()
    import yaml

    assert make_job(yaml.safe_load(job_text(job))) == job


def test_several_sizes_share_a_teacher_and_one_is_to_be_shipped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    request = {
        "data": "digits", "train_examples": 200, "teacher": {"model": "resnet8", "width": 4, "check": False},
        "student": {"from": "teacher", "sizes": [0.6, "4x"], "margin": 0.9},
        "arms": ["teacher", "distilled"],
        "budget": {"epochs": 1, "batch_size": 50, "lr": 0.01}, "seeds": 1,
    }  # fmt: skip
    named, margin = expand_students(request)
    assert (list(named), margin) == (["size-0.6", "size-4x"], 0.9)
    said = []
    jobs = {name: make_job(one) for name, one in named.items()}
    result = run_students(jobs, "sizes", margin=margin, callback=collect_messages(said))
    assert sum("Training the teacher" in line for line in said) == 1
    assert sum("Teacher already trained" in line for line in said) == 1
    sizes = {row["name"]: row["size"] for row in result["students"]}
    assert 1 > sizes["size-0.6"] > sizes["size-4x"] > 0
    page = (tmp_path / "sizes" / "report.html").read_text()
    assert result["sentence"].split(":")[0] in page
    assert "size-4x" in page
    assert json.loads((tmp_path / "sizes" / "students.json").read_text())["ship"] == result["ship"]
    # The same call reads what is finished.
    said.clear()
    assert run_students(jobs, "sizes", margin=margin, callback=collect_messages(said))["sentence"] == result["sentence"]
    assert not any("Training" in line for line in said)
    # Other settings are no continuation, not even of finished runs.
    with pytest.raises(LimbeckError, match="lr"):
        run_students({name: job_with_rate(job) for name, job in jobs.items()}, "sizes", margin=margin)
    # A run that was killed before its job was written begins anew.
    shutil.rmtree(tmp_path / "sizes" / "size-4x")
    (tmp_path / "sizes" / "size-4x" / "student").mkdir(parents=True)
    (tmp_path / "sizes" / "size-4x" / "student" / "model.safetensors").write_text("half")
    (tmp_path / "sizes" / "size-4x" / ".lock").touch()
    again = run_students(jobs, "sizes", margin=margin)
    assert again["students"][1]["test"] == result["students"][1]["test"]


def job_with_rate(job):
    return job.model_copy(update={"budget": job.budget.model_copy(update={"lr": 0.5})})


def test_a_score_that_is_no_number_is_none_in_json():
    diverged = row("a", math.nan, 5).as_dict()
    assert (diverged["development"], diverged["test"], diverged["parameters"]) == (None, None, 5)
    json.dumps(diverged, allow_nan=False)


def row(name, development, parameters, *, ready=True):
    return StudentRow(
        name, "distilled", 0.5, parameters / 1000, parameters, development, development - 0.01, 0.1, ready
    )


def test_the_smallest_student_within_the_margin_is_shipped():
    score = Classification.primary
    rows = [row("a", 0.95, 500), row("b", 0.942, 250), row("c", 0.90, 125)]
    assert choose_student(rows, 0.95, score, margin=0.01)[0] == "b"
    assert choose_student(rows, 0.95, score, margin=0.005)[0] == "a"
    assert choose_student(rows, 0.95, score, margin=0.1)[0] == "c"
    # Exactly one point is within one point: 0.95 - 0.96 is a little less than -0.01 in binary.
    assert choose_student(rows, 0.96, score, margin=0.01)[0] == "a"
    ship, sentence = choose_student(rows, 0.99, score, margin=0.01)
    assert ship is None
    assert "a, with 95.00 %" in sentence
    assert choose_student([row("a", 0.95, 5, ready=False)], 0.95, score, margin=0.01)[0] is None
    assert choose_student([row("a", math.nan, 5)], 0.95, score, margin=0.01)[0] is None


def test_students_may_be_any_and_get_names():
    named, _ = expand_students({"student": [{"from": "teacher", "size": "4x"}, "mlp", {"model": "mlp", "hidden": [4]}]})
    assert list(named) == ["size-4x", "mlp", "mlp-2"]
    assert expand_students({"student": "mlp"}) is None
    with pytest.raises(LimbeckError, match="twice"):
        expand_students({"student": ["mlp", "mlp"]})
    with pytest.raises(LimbeckError, match="two"):
        expand_students({"student": {"from": "teacher", "sizes": [0.5]}})
    with pytest.raises(LimbeckError, match="margin"):
        expand_students({"student": {"from": "teacher", "sizes": [0.5, 0.25], "margin": 2}})
    with pytest.raises(LimbeckError, match="--shrink"):
        read_shrink_flag("much")


def test_a_comparison_of_sizes_goes_on_with_resume(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    request = {
        "data": "digits", "train_examples": 100, "teacher": {"model": "resnet8", "width": 4, "check": False},
        "student": {"from": "teacher", "sizes": [0.6, "4x"], "margin": 0.9}, "arms": ["teacher", "distilled"],
        "budget": {"epochs": 1, "batch_size": 50, "lr": 0.01}, "seeds": 1,
    }  # fmt: skip
    named, margin = expand_students(request)
    jobs = {name: make_job(one) for name, one in named.items()}

    def stop(event):
        if isinstance(event, Message) and "size-4x" in event.text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_students(jobs, "sizes", margin=margin, callback=stop)
    assert not (tmp_path / "sizes" / "students.json").exists()
    resume_comparison("sizes", as_json=True)
    resumed = json.loads(capsys.readouterr().out)
    whole = run_students(jobs, "whole", margin=margin)
    for one, other in zip(resumed["students"], whole["students"], strict=True):
        assert {**one, "milliseconds": 0} == {**other, "milliseconds": 0}
    assert (resumed["ship"], resumed["margin"]) == (whole["ship"], 0.9)
    # More seeds of all sizes; other sizes are those of another call.
    resume_comparison("sizes", ["seeds=2"], as_json=True)
    assert json.loads((tmp_path / "sizes" / "size-4x" / "result.json").read_text())["seeds"] == 2
    assert read_students("sizes")[0]["size-4x"]["seeds"] == 2
    for setting in ("student.size=0.3", "out=elsewhere"):
        with pytest.raises(LimbeckError, match="sizes"):
            resume_comparison("sizes", [setting], as_json=True)
    (plan := tmp_path / "sizes" / ".students.json").write_text(plan.read_text().replace("0.9", "0.8"))
    with pytest.raises(LimbeckError, match=r"students\.json"):
        resume_comparison("sizes", as_json=True)


def test_several_students_that_are_refused_leave_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jobs = {name: asked(data="none.csv", teacher="resnet8") for name in ("a", "b")}
    with pytest.raises(LimbeckError, match=r"none\.csv"):
        run_students(jobs, "sizes", margin=0.1)
    assert not (tmp_path / "sizes").exists()


@pytest.mark.parametrize(
    ("setting", "again"),
    [("student.bytes=9kB", True), ("student.size=0.5", False), ("teacher.width=8", True), ("seeds=2", False)],
)
def test_another_limit_is_measured_again_and_a_typed_size_replaces_it(tmp_path, monkeypatch, setting, again):
    monkeypatch.chdir(tmp_path)
    teacher = {"model": "resnet8", "width": 4, "check": False}
    job = asked(teacher=teacher, student={"from": "teacher", "bytes": "12kB"}, out="run", arms=["distilled"])

    def stop(event):
        if isinstance(event, StepsTaken):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lb.run_job(job, callback=stop)
    before = read_job("run/job.yaml")["student"]
    changed = make_job({**with_settings(read_job("run/job.yaml"), [setting]), "out": "run"})
    said = []
    result = lb.run_job(changed, change=True, callback=collect_messages(said))
    after = read_job("run/job.yaml")["student"]
    assert any("is reached by" in line for line in said) is again
    assert (after.get("bytes") is None) is (setting == "student.size=0.5")
    assert (after["size"] == before["size"]) is (setting == "seeds=2")
    if setting != "student.size=0.5":
        assert 4 * result["arms"]["distilled"]["parameters"] <= (9_000 if "9kB" in setting else 12_000)
