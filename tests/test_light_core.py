"""What works where only the requirements of the core are installed."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from small_jobs import environment

ROOT = Path(__file__).resolve().parents[1]
# The libraries that were requirements of the core once, and what they bring.
HIDDEN = ("typer", "rich", "click", "shellingham", "pygments", "joblib", "sklearn", "threadpoolctl")
HIDE = f"""
import sys
from importlib.machinery import PathFinder

class Hide(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {HIDDEN} else super().find_spec(name, path, target)

sys.meta_path[:] = [Hide if finder is PathFinder else finder for finder in sys.meta_path]
"""


def run_hidden(code, folder):
    """Run Python code where those libraries cannot be imported."""
    command = [sys.executable, "-c", HIDE + code]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=folder, check=False)


def run_command(folder, *words):
    return run_hidden(f"from limbeck.cli import main\nmain({list(words)!r})", folder)


CORE = """
import warnings
import torch
from torch import nn
import limbeck as lb
from limbeck.functional import cross_entropy, kl_divergence

torch.manual_seed(0)
inputs, labels = torch.randn(64, 4), torch.randint(0, 3, (64,))
data = lb.ArrayDataset(inputs, labels)
student = lb.build("mlp", inputs=4, hidden=[8], classes=3)
objective = lb.Loss(cross_entropy) + lb.Loss(kl_divergence, temperature=2.0)
teacher = lb.CachedTeacher(lb.ModelTeacher(nn.Linear(4, 3)), "cache")
stage, options = lb.Stage(objective, teacher=teacher, epochs=2), {"out": "run", "accelerator": "cpu"}
run = lb.distill(student, stage, data, **options).finish()
assert run.history[-1].loss > 0
lb.save(run.student, "student")

def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))

assert same_weights(lb.load("student"), run.student)
once_more = lb.distill(student, stage, data, **options, resume=True).finish()
assert once_more.finished and same_weights(once_more.student, run.student)
assert len(lb.load_data("drawn_digits").train) == 797

from limbeck.task_runner import WorkItem, run_tasks
with warnings.catch_warnings(record=True) as notes:
    warnings.simplefilter("always")
    assert [result for _, result in run_tasks([WorkItem("a", int), WorkItem("b", int)], workers=2)] == [0, 0]
assert [note.category for note in notes] == [lb.LimbeckWarning]
assert "torchmetrics" not in sys.modules  # Fabric would import all of it to compare its version
print("The core works.", flush=True)
"""


def test_commands_say_what_to_install(tmp_path):
    done = run_command(tmp_path, "distill", "--data", "digits")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: `limbeck distill` needs typer")
    assert "pip install 'limbeck[cli]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    for words in ((), ("--help",)):
        help_text = run_command(tmp_path, *words)
        assert (help_text.returncode, help_text.stderr) == (0, "")
        assert "limbeck demo" in help_text.stdout
    assert run_command(tmp_path, "demo", "--seeds", "0").returncode == 2


SMALL_DEMO = """
import limbeck.demo
whole = limbeck.demo.demo_job

def small(out, *, seeds):
    job = whole(out, seeds=seeds)
    job["teacher"] |= {"members": 2, "train": {**job["teacher"]["train"], "epochs": 3}}
    return job | {"budget": {**job["budget"], "epochs": 2}}

limbeck.demo.demo_job = small
from limbeck.cli import main
main(["demo", "--out", "demo", "--seeds", "2"])
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """How a process without those libraries ended that used the core, and then ran the demo; and its folder."""
    folder = tmp_path_factory.mktemp("alone")
    return run_hidden(CORE + SMALL_DEMO, folder), folder


def test_the_core_trains_caches_saves_and_loads(alone):
    done, _ = alone
    assert done.stdout.splitlines()[:1] == ["The core works."], done.stderr


def test_the_demo_runs_with_the_core_alone(alone):
    done, folder = alone
    assert done.returncode == 0, done.stderr
    assert (folder / "demo" / "report.html").is_file()
    for arm in ("teacher", "student alone", "label smoothing", "distilled"):
        assert any(line.startswith(arm) and "%" in line for line in done.stdout.splitlines()), done.stdout
    assert "pip install 'limbeck[cli]'" in done.stdout


def test_the_core_has_few_requirements():
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {requirement.partition(">")[0] for requirement in requirements}
    assert names == {
        "torch", "lightning-fabric", "numpy", "safetensors", "pydantic", "PyYAML", "jaxtyping", "scipy",
    }  # fmt: skip
