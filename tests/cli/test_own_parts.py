"""A job whose data, transform and metric are functions in one's own files."""

from __future__ import annotations

import json

from small_jobs import job_file, small_job

FILE = """
import torch
from shapes import WIDTH

def load(size=120):
    draw = torch.Generator().manual_seed(0)
    def part(n):
        labels = torch.arange(n) % 3
        return torch.eye(WIDTH)[labels] * 2 + torch.randn(n, WIDTH, generator=draw), labels
    return part(size), part(60)

stds = []

def noise(row, *, std=0.2):
    from pathlib import Path
    if not stds:  # one row is enough
        stds.append(std)
        Path("noise.txt").write_text(str(std))
    return row + std * torch.randn_like(row)

def recall_of_first(labels, predicted):
    return (predicted[labels == 0] == 0).double().mean()
"""


def test_the_whole_job_is_ones_own(here, limbeck):
    (here / "my.py").write_text(FILE)
    (here / "shapes.py").write_text("WIDTH = 5\n")
    changes = {
        "budget": {"epochs": 3, "lr": 0.05, "batch_size": 16, "augment": {"my.py:noise": {"std": 0.1}}},
        "metrics": ["my.py:recall_of_first"],
        "seeds": 1,
    }
    job = job_file(here / "job.yaml", small_job({"name": "my.py:load", "size": 240}, **changes))
    ended = limbeck("distill", job, "--out", "run")
    assert ended.code == 0, ended.err
    assert (here / "noise.txt").read_text() == "0.1", "the transform was called, with its option"
    result = json.loads((here / "run" / "result.json").read_text())
    for arm in result["arms"].values():
        assert 0 <= arm["measures"]["recall_of_first"]["mean"] <= 1
    page = (here / "run" / "report.html").read_text()
    main = page.split('<table class="arms">')[1].split("</table>")[0]
    assert "recall_of_first" in main
    assert any("recall_of_first" in line and "params" in line for line in ended.out.splitlines())


def test_a_metric_that_fails_is_reported_before_the_teacher_is_trained(here, limbeck):
    (here / "my.py").write_text(FILE + "\ndef wrong(labels):\n    return labels.nothing\n")
    (here / "shapes.py").write_text("WIDTH = 5\n")
    job = job_file(here / "job.yaml", small_job("my.py:load", metrics="my.py:wrong"))
    ended = limbeck("distill", job, "--out", "run")
    assert ended.code == 1
    assert "my.py:wrong" in ended.err
    assert "Training the teacher" not in ended.err
    assert not (here / "run").exists()
