"""Reused worker processes work in the folder of the search, with its files."""

from __future__ import annotations

import pytest
import yaml

from limbeck.compare.tuning import tune
from limbeck.compare.tuning.results import SEARCH_PLACES
from limbeck.errors import LimbeckError
from limbeck.job import make_job, read_job
from limbeck.job.paths import PLACES
from small_jobs import blobs, contents, small_job

STUDENT = """from torch import nn


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, {width}), nn.ReLU(), nn.Linear({width}, 5))
"""


@pytest.mark.parametrize("teacher", [{"model": "mlp", "hidden": [16]}, {"model": "my.py:build"}])
def test_kept_processes_follow_a_search_to_another_folder(tmp_path, monkeypatch, teacher):
    """Data, student, store and folder are named relatively, and mean others in the second folder than in the first."""
    asked = small_job(
        "blobs.npz", teacher=teacher, student="my.py:build", workers=2, arms=["student alone", "distilled"],
        cache={"folder": "answers", "encoding": "float32"}, out="search",
    )  # fmt: skip
    found, before = {}, {}
    for name, width in (("first", 4), ("second", 9)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        blobs(tmp_path / name / "blobs.npz", seed=width)
        (tmp_path / name / "my.py").write_text(STUDENT.format(width=width))
        found[name] = tune(make_job(asked), trials=2)
        before = before or contents(tmp_path / "first")
        for place in ("search/arms/student-alone/trials.jsonl", "search/best.yaml", "answers/manifest.json"):
            assert (tmp_path / name / place).is_file()
        assert make_job(read_job(found[name]["best"])).cache.folder.endswith(f"{name}/answers")
    assert contents(tmp_path / "first") == before, "nothing of the second search went there"
    alone = tune(make_job({**asked, "workers": 1, "out": "alone"}), trials=2)
    for arm, row in alone["arms"].items():
        assert [t["accuracy"] for t in row["trials"]] == [t["accuracy"] for t in found["second"]["arms"][arm]["trials"]]
        assert [t["nll"] for t in row["trials"]] == pytest.approx(
            [t["nll"] for t in found["second"]["arms"][arm]["trials"]]
        )


@pytest.mark.parametrize("absolute", [False, True])
def test_a_search_says_nothing_of_where_it_lies_and_goes_on_where_it_is_moved(tmp_path, monkeypatch, absolute):
    home = tmp_path / "zephyrine"
    home.mkdir()
    monkeypatch.chdir(home)
    blobs(home / "blobs.npz")
    (home / "my.py").write_text(STUDENT.format(width=4))
    at = (lambda name: str(home / name)) if absolute else str
    asked = small_job(at("blobs.npz"), student=f"{at('my.py')}:build", arms=["student alone", "distilled"],
                      seeds=1, cache={"encoding": "float32"}, out=at("search"))  # fmt: skip
    first = tune(make_job(asked), trials=1)
    for file in (home / "search").rglob("*"):
        if file.is_file() and file.name not in (PLACES, SEARCH_PLACES, ".lock"):
            assert b"zephyrine" not in file.read_bytes(), file
    shown = yaml.safe_load((home / "search" / "best.yaml").read_text())
    assert (shown["data"], shown["student"]["model"], shown["search"]) == ("blobs.npz", "my.py:build", "search")
    assert shown["teacher"]["model"] == "search/teacher/student"
    (home / "search").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    elsewhere = {**asked, "data": str(home / "blobs.npz"), "student": f"{home / 'my.py'}:build", "out": "moved"}
    again = tune(make_job(elsewhere), trials=1)
    for arm, row in first["arms"].items():
        assert again["arms"][arm]["trials"] == row["trials"], "none is run twice"
    best = read_job(tmp_path / "moved" / "best.yaml")
    assert best["data"] == str(home / "blobs.npz")
    assert best["teacher"]["model"] == str(tmp_path / "moved" / "teacher" / "student")
    (tmp_path / "moved").rename(tmp_path / "again")
    best = read_job(tmp_path / "again" / "best.yaml")
    assert best["teacher"]["model"] == str(tmp_path / "again" / "teacher" / "student")
    assert best["search"] == str(tmp_path / "again")
    make_job({**best, "out": "run"})


def test_a_search_that_moved_with_its_data_goes_on_and_one_of_other_data_does_not(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    blobs(tmp_path / "here" / "blobs.npz")
    asked = small_job("blobs.npz", arms=["student alone", "distilled"], seeds=1, out="search")
    first = tune(make_job(asked), trials=1)
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    again = tune(make_job(asked), trials=1)
    assert again["arms"]["distilled"]["trials"] == first["arms"]["distilled"]["trials"]
    (tmp_path / "third").mkdir()
    blobs(tmp_path / "third" / "blobs.npz", seed=3)
    tune(make_job(asked), trials=1)  # .places.json is new: it knows where the data lie now
    monkeypatch.chdir(tmp_path / "third")
    with pytest.raises(LimbeckError, match="another job"):
        tune(make_job({**asked, "out": str(tmp_path / "there" / "search")}), trials=1)
