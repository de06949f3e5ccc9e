"""A command that only reads, prints or exports runs no Python file that a stranger's job or folder names."""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from limbeck.cli.entry_point import consent
from limbeck.consent import allow_all, allow_only, may_run, read_consent
from limbeck.errors import LimbeckError
from limbeck.export import cite, export_run
from limbeck.models import open_model

CODE = """
from pathlib import Path
Path({canary!r}).touch()
from torch import nn
def build(**given): return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
def soft(teacher): pass
def track(folder): pass
"""
KEYS = {
    "method": {"name": "evil.py:soft"},
    "methods": ["hinton", "evil.py:soft"],
    "teacher": {"model": "evil.py:build", "check": False},
    "student": {"model": "evil.py:build"},
    "track": "evil.py:track",
}


@pytest.fixture
def canary(tmp_path: Path, monkeypatch) -> Path:
    """Which file exists once the stranger's code was run; the working folder holds that code."""
    monkeypatch.chdir(tmp_path)
    found = tmp_path / "canary"
    (tmp_path / "evil.py").write_text(CODE.format(canary=str(found)))
    return found


@pytest.fixture
def finished(done, here) -> Path:
    """A copy of a finished run."""
    shutil.copytree(done[0] / "run", here / "run")
    return here / "run"


def job_with(key: str, run: Path | None = None) -> Path:
    told = {
        "data": "digits", "teacher": {"model": "mlp", "hidden": [4], "check": False},
        "student": {"model": "mlp", "hidden": [4]}, "budget": {"epochs": 1}, "cache": {"encoding": "float32"},
    }  # fmt: skip
    file = Path("job.yaml") if run is None else run / "job.yaml"
    told = told if run is None else yaml.safe_load(file.read_text())
    if key == "methods":
        told.pop("method", None)
    file.write_text(yaml.safe_dump({**told, key: KEYS[key]}))
    return file


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "words",
    [
        ["distill", "job.yaml", "--print-job"],
        ["compare", "job.yaml", "--print-job"],
        ["doctor", "job.yaml", "--json"],
        ["cache", "info", "job.yaml"],
        ["cache", "verify", "job.yaml"],
        ["cache", "verify", "job.yaml", "--sample", "4"],
    ],
    ids=" ".join,
)
def test_a_stranger_s_job_runs_no_file(canary, limbeck, key, words):
    job_with(key)
    ended = limbeck(*words)
    assert not canary.exists()
    if "--print-job" in words:
        assert ended.code == 0, ended.err
        assert "evil.py" in ended.out
    elif "doctor" in words and key == "method":
        assert ended.code == 1
        assert "--trust" in ended.out


@pytest.mark.parametrize("key", KEYS)
def test_a_stranger_s_finished_run_runs_no_file(canary, finished, limbeck, key):
    job_with(key, finished)
    for words in (["cite"], ["report"], ["resume"], ["export", "--to", "folder"]):
        limbeck(words[0], str(finished), *words[1:])
        assert not canary.exists(), words
    cite(finished)
    if key == "student":
        told = json.loads((finished / "student/config.json").read_text())
        del told["checksum"]  # as a stranger would
        (finished / "student/config.json").write_text(json.dumps({**told, "model": {"class": "evil.Net"}}))
        with pytest.raises(LimbeckError, match="trust"):
            export_run(finished, to="folder", out="exported")
    assert not canary.exists()


@pytest.mark.parametrize("key", KEYS)
def test_a_stranger_s_stopped_run_runs_no_file_unless_trusted(canary, finished, limbeck, key):
    job_with(key, finished)
    (finished / "result.json").unlink()
    ended = limbeck("resume", str(finished))
    assert ended.code == 1
    assert "--trust" in ended.err
    assert not canary.exists()
    limbeck("resume", str(finished), "--trust")
    assert canary.exists()


def test_who_types_a_file_consents(canary, limbeck):
    limbeck(
        "doctor", "--data", "digits", "--teacher", "evil.py:build", "--student", "mlp", "--set", "teacher.check=false"
    )
    assert canary.exists()
    canary.unlink()
    limbeck("methods", "evil.py:soft")
    assert canary.exists()


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        (["distill", "job.yaml"], True),
        (["cache", "build", "job.yaml"], True),
        (["tune", "job.yaml"], True),
        (["distill", "job.yaml", "--print-job"], False),
        (["cache", "info", "job.yaml"], False),
        (["doctor", "--set", "method.name=evil.py:soft"], True),
        (["doctor", "--set", "method={name: evil.py:soft}"], True),
        (["doctor", "--teacher", "other.py:build"], False),
        (["resume", "evil.py"], False),
        ([], False),
    ],
)
def test_which_command_may_run_a_file(words, runs):
    with consent(words, trust=False):
        assert may_run(Path("evil.py")) is runs
    with consent(words, trust=True):
        assert may_run(Path("evil.py"))


def test_in_python_every_file_may_be_run_but_where_a_folder_is_only_read(canary):
    with allow_only("reading"), pytest.raises(LimbeckError, match=r"trust=True"):
        open_model("evil.py:build")
    with read_consent("reading", trust=False), pytest.raises(LimbeckError, match=r"trust=True"):
        open_model("evil.py:build")
    assert not canary.exists()
    with allow_all(), read_consent("reading", trust=False):
        open_model("evil.py:build")
    assert canary.exists()
    os.remove(canary)
    open_model("evil.py:build")
    assert canary.exists()
