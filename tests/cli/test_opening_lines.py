"""The printed lines that load a student run as they are."""

from __future__ import annotations

import html
import re

import pytest

from limbeck.job import opening_code, wrap_statements
from small_jobs import blobs, forked, job_file, small_job

OWN = """
from torch import nn

class Net(nn.Module):
    def __init__(self, inputs, classes, width):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, x):
        return self.body(x)

def student(input_shape, classes, *, width):
    return Net(input_shape[1] * input_shape[2], classes, width)
"""
ENDS = "\nimport torch; assert student(torch.zeros(2, 1, 6, 6)).shape == (2, 5); assert not student.training"


def runs(code, folder, *, beside=(), fresh=False):
    paths = "".join(f"import sys; sys.path.insert(1, {str(one)!r})\n" for one in beside)
    done = forked("-c", paths + code + ENDS, cwd=folder, fresh=fresh)
    assert done.code == 0, (code, done.err)


@pytest.mark.parametrize("file", ["my_models.py", pytest.param("zoo/my-models.py", marks=pytest.mark.soak)])
def test_a_student_of_the_user(limbeck, here, file):
    (here / "zoo").mkdir()
    (here / file).write_text(OWN)
    asked = {"model": f"{file}:student", "width": 7}
    arms = ["student alone", "distilled"]
    job_file(here / "job.yaml", small_job(blobs(here / "blobs.npz"), student=asked, arms=arms, seeds=1))
    ended = limbeck("distill", "job.yaml", "--out", "runs/mine")
    assert ended.code == 0, ended.err
    lines = ended.out.split("Load the student in Python:\n")[1].splitlines()
    assert all(len(line) <= 80 for line in lines) or "-" in file
    runs("\n".join(lines), here, fresh=True)
    page = html.unescape((here / "runs" / "mine" / "report.html").read_text())
    line = re.search(r"open it in Python</dt><dd><code>(.*?)</code>", page)[1]
    assert str(here) not in line
    if file == "my_models.py":
        assert "from my_models import student as build" in line
        runs(line, here)
        assert limbeck("export", "runs/mine", "--to", "folder", "--out", "out", "--trust").code == 0
        card = (here / "out" / "README.md").read_text()
        code = card.split("```python\n")[1].split("```")[0].partition("preprocess = ")[0]
        runs(code, here / "out", beside=[here])


def test_a_student_that_a_name_opens_and_lines_that_are_too_long(tmp_path):
    import limbeck as lb

    folder = lb.save(lb.build("mlp", inputs=36, classes=5, hidden=[4]), tmp_path / "student")
    opened = opening_code(folder, {"model": "mlp"}, path=str(folder))
    runs("\n".join(wrap_statements(opened, width=30)), tmp_path)
    assert wrap_statements(opened, width=300) == [f"import limbeck; student = limbeck.load({str(folder)!r})"]


def test_a_student_that_a_method_puts_together(tmp_path):
    import torch

    import limbeck as lb

    folder = lb.save(torch.nn.Linear(2, 2), tmp_path / "student", metadata={"ships": "a module", "arm": "mine"})
    opened = opening_code(folder, {"model": "mlp"}, path=str(folder), place=tmp_path)
    assert opened[-1].startswith("student = limbeck.export.open_student(")
    job = "teacher: {model: mlp}\nstudent: {model: 'my.py:build'}\ndata: digits\nmethod: hinton\n"
    for text, trusted in ((job, True), (job.replace("my.py:build", "mlp"), False)):
        (tmp_path / "job.yaml").write_text(text)
        opened = opening_code(folder, {"model": "mlp"}, path=str(folder), place=tmp_path)
        assert opened[-1].endswith(", trust=True)") is trusted
