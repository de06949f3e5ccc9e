"""Finished runs with a damaged, moved or foreign result are read, and their figures drawn, without a traceback."""

from __future__ import annotations

import json
import re
import shutil
import warnings

import pytest

from fuzzing import read_as_good
from limbeck.errors import LimbeckError
from small_jobs import contents, refused


@pytest.fixture
def run(done, here):
    """A copy of a finished run."""
    shutil.copytree(done[0] / "run", here / "run")
    return here / "run"


def changed(run, *keys, to):
    """The run's result with one value in it changed."""
    found = json.loads((run / "result.json").read_text())
    del found["sha256"]  # as who edits it would
    inner = found
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    (run / "result.json").write_text(json.dumps(found))


@pytest.mark.parametrize("content", [b"", b'{"arms": {"teacher": {"rol', b"\xff\xfe", b"[" * 100_000, b"[]", b"null"])
def test_one_that_is_no_result_is_one_sentence_for_every_command(limbeck, run, content):
    (run / "result.json").write_bytes(content)
    before = contents(run)
    for command in (["resume"], ["report"], ["cite"], ["export", "--to", "onnx"]):
        refused(limbeck(command[0], "run", *command[1:]), "result.json", "limbeck resume run")
    assert contents(run) == before


def test_what_the_sentence_says_makes_it_again(limbeck, run):
    before = json.loads((run / "result.json").read_text())
    (run / "result.json").unlink()
    left = [run / "arms" / "distilled" / ".seed-9.partial", run / "student" / ".config.json.partial"]
    left[0].mkdir()
    left[1].write_text("half")
    again = limbeck("resume", "run", "--json").result
    assert {name: arm["accuracy"] for name, arm in again["arms"].items()} == {
        name: arm["accuracy"] for name, arm in before["arms"].items()
    }
    assert again["verdict"] == before["verdict"]
    assert not list(run.rglob("*.partial"))


@pytest.mark.parametrize(
    ("keys", "to"),
    [
        (["verdict"], None),
        (["verdict"], {}),
        (["verdict", "arm"], []),
        (["verdict", "against"], None),
        (["verdict", "against"], {"label smoothing": 3}),
        (["verdict", "interval"], [1e999, -1e999]),
        (["seconds"], "long"),
        (["data"], None),
        (["arms", "distilled", "measures"], None),
        (["arms", "distilled", "measures"], {"accuracy": 3}),
        (["arms", "distilled", "nll"], "x"),
        (["arms", "distilled", "megabytes"], 10**400),
        (["arms", "distilled", "accuracy"], 10**400),
        (["arms", "distilled", "parameters"], None),
        (["arms", "[/bold]<script>"], {}),
        (["arms", "x" * 5000], {}),
        (["arms", "a\x00b"], {}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_one_of_another_shape_is_shown_for_what_it_holds(limbeck, run, keys, to):
    changed(run, *keys, to=to)
    for words in (["resume", "run"], ["report", "run"], ["cite", "run"]):
        ended = limbeck(*words)
        assert ended.code == 0, (words, ended.err)
    assert "<script" not in (run / "report.html").read_text(encoding="utf-8")
    assert "arms" in limbeck("resume", "run", "--json").result


def test_a_run_that_was_moved_speaks_of_where_it_is(limbeck, here, run):
    run.rename(here / "moved away")
    found = limbeck("resume", "moved away", "--json").result
    assert found["run"] == "moved away"
    assert found["report"] == "moved away/report.html"
    assert found["shipped"]["path"] == "moved away/student"
    page = limbeck("report", "moved away", "--json").result
    assert page["unknown"] == []
    assert limbeck("cite", "moved away").code == 0


def test_a_run_that_was_killed_before_its_page_gets_one(limbeck, run):
    (run / "report.html").unlink()
    assert limbeck("resume", "run").code == 0
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


_SUMS = re.compile(r"\b[0-9a-f]{64}\b")
"""The page shows the checksums of files, which harm changes."""


@pytest.mark.soak
@pytest.mark.parametrize(
    ("names", "count"),
    [
        ("arms/*/seed-*/predictions.safetensors", 60),
        ("teacher/answers.safetensors", 60),
        ("result.json", 120),
        ("job.yaml", 60),
        ("arms/*/seed-*/metrics.jsonl", 60),
        ("metrics.jsonl", 20),
    ],
)
def test_no_harmed_file_is_read_as_good(limbeck, run, names, count):
    """The page, the result and the citation are the same, or say what is wrong, or are refused."""

    def look():
        with warnings.catch_warnings(record=True) as warned:  # a warning is how a command says that a job was edited
            warnings.simplefilter("always")
            ended = [
                limbeck(*words) for words in (["report", "run", "--json"], ["resume", "run", "--json"], ["cite", "run"])
            ]
        for one in ended:
            if one.code:
                raise LimbeckError(one.err)
        page = json.loads(ended[0].out)
        shown = [_SUMS.sub("", (run / "report.html").read_text()), ended[1].out, ended[2].out]
        return shown, [page["unknown"], [one.err for one in ended], [str(one.message) for one in warned]]

    assert read_as_good(run, names, look, count) == []
