"""Files of a run that others get hold no absolute paths, and the run can be resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

import limbeck as lb
from limbeck.errors import LimbeckError
from limbeck.export import export_run
from limbeck.job import job_text, make_job, read_job, run_job_texts
from limbeck.job.paths import PLACES
from limbeck.report import write_report
from small_jobs import blobs, small_job


def kept(job, folder):
    """Write a job into a run's folder, and what stands in its job.yaml."""
    folder.mkdir(exist_ok=True, parents=True)
    for name, text in run_job_texts(make_job(job), folder).items():
        (folder / name).write_text(text)
    return yaml.safe_load((folder / "job.yaml").read_text())


def test_everything_for_others_is_without_a_place(tmp_path, monkeypatch):
    home = tmp_path / "home" / "zephyrine"
    (home / "work" / "zoo").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home / "work")
    blobs(home / "own.npz")
    (home / "work" / "zoo" / "my.py").write_text(
        "from torch import nn\ndef net(classes): return nn.Sequential(nn.Flatten(), nn.Linear(36, classes))\n"
    )
    out = home / "work" / "runs" / "mine"
    asked = small_job(
        home / "own.npz", student="zoo/my.py:net", seeds=1, arms=["student alone", "distilled"], out=str(out)
    )
    lb.run_job(make_job(asked))
    export_run(out, to="folder", trust=True)
    write_report([out])
    files = [file for file in out.rglob("*") if file.is_file() and file.name not in (PLACES, ".lock")]
    for file in files:
        assert b"zephyrine" not in file.read_bytes(), file
        assert str(tmp_path).encode() not in file.read_bytes(), file
    shown = yaml.safe_load((out / "job.yaml").read_text())
    assert (shown["data"], shown["student"]["model"], shown["out"]) == ("own.npz", "zoo/my.py:net", "runs/mine")
    assert "zoo/my.py:net" in (out / "report.html").read_text()
    assert "The examples cannot be shown" not in (out / "report.html").read_text()
    assert json.loads((out / "result.json").read_text())["run"] == "runs/mine"
    monkeypatch.chdir(tmp_path)  # from anywhere the run means what it meant
    assert read_job(out / "job.yaml")["data"] == str(home / "own.npz")
    assert lb.run_job(make_job({**read_job(out / "job.yaml"), "out": str(out)}), resume=True)["arms"]


def test_what_was_typed_relative_stays_so_and_means_the_same_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    blobs(tmp_path / "b.npz")
    monkeypatch.chdir(tmp_path / "here")
    job = small_job("../b.npz", cache={"folder": "answers"}, track="t.py:f")
    shown = kept(job, tmp_path / "run")
    assert shown["data"] == "../b.npz"
    assert shown["cache"]["folder"] == "answers"
    assert shown["track"] == "t.py:f"
    monkeypatch.chdir("/")
    again = read_job(tmp_path / "run" / "job.yaml")
    assert (again["data"], again["cache"]["folder"]) == (
        str(tmp_path / "here" / ".." / "b.npz"),
        str(tmp_path / "here" / "answers"),
    )
    assert again["track"] == f"{tmp_path / 'here' / 't.py'}:f"
    # Written again with its places whole, as a resumed run does, it is shown as it was.
    assert kept(again, tmp_path / "run") == shown


def test_a_published_set_that_lay_in_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    blobs(tmp_path / "data" / "mnist.npz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LIMBECK_DATA", raising=False)
    assert kept(small_job("mnist"), tmp_path / "run")["data"] == "mnist"
    assert read_job(tmp_path / "run" / "job.yaml")["data"] == {"name": "mnist", "folder": str(tmp_path / "data")}


def test_a_file_that_was_edited_explains_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blobs(tmp_path / "a.npz"), blobs(tmp_path / "b.npz")
    shown = kept(small_job("a.npz"), tmp_path / "run")
    (tmp_path / "run" / "job.yaml").write_text(yaml.safe_dump({**shown, "data": "b.npz"}))
    assert read_job(tmp_path / "run" / "job.yaml")["data"] == "b.npz"
    for places in ("[", '{"data": {"shown": "b.npz", "path": "/etc/passwd"}, "student.model": 3, "x.y": {}}'):
        (tmp_path / "run" / PLACES).write_text(places)
        assert read_job(tmp_path / "run" / "job.yaml")["data"] == "b.npz"


def test_a_folder_that_went_to_another_machine_looks_where_its_job_says(tmp_path, monkeypatch):
    (tmp_path / "old").mkdir()
    monkeypatch.chdir(tmp_path / "old")
    blobs(Path("a.npz"))
    kept(small_job("a.npz"), tmp_path / "run")
    shutil.move(tmp_path / "old", tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new")
    assert read_job(tmp_path / "run" / "job.yaml")["data"] == "a.npz"
    (tmp_path / "run" / PLACES).unlink()
    assert read_job(tmp_path / "run" / "job.yaml")["data"] == "a.npz"
    assert "a.npz" in job_text(make_job(read_job(tmp_path / "run" / "job.yaml")))
    with pytest.raises(LimbeckError, match="no job file"):
        read_job(tmp_path / "nothing" / "job.yaml")
