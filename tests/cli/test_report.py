"""`limbeck report`: output, files, figures and errors."""

from __future__ import annotations

import json
import sys

from report_runs import planted_run
from small_jobs import refused


def test_a_page_about_a_run(limbeck, here):
    run = planted_run(here / "run", test=100)
    ended = limbeck("report", "run")
    assert ended.code == 0
    assert (run / "report.html").read_text().startswith("<!doctype html>")
    assert "points" in ended.out.splitlines()[0]
    assert ended.out.rstrip().endswith("run/report.html")


def test_json_says_where_it_is(limbeck, here):
    for name in ("one", "two"):
        planted_run(here / name, test=100, predictions=name == "one")
    found = limbeck("report", "one", "two", "--out", "pages/both.html", "--json").result
    assert found["report"] == "pages/both.html"
    assert found["bytes"] == (here / "pages" / "both.html").stat().st_size
    assert len(found["verdicts"]) == 2
    assert len(found["unknown"]) == 1


def test_bad_input_is_one_sentence(limbeck, here):
    planted_run(here / "one", test=100)
    planted_run(here / "other", test=80)
    refused(limbeck("report", "none"), "run folder 'none'", "limbeck distill ... --out DIR")
    refused(limbeck("report", "one", "other"), "one", "other", "different test data", "test 100 and 80")
    refused(limbeck("report", "one", "one/"), "given twice")
    refused(limbeck("report", "one", here / "other" / ".." / "one"), "given twice")
    refused(limbeck("report", "one", "--out", "one/result.json"), "one/result.json", "is not a report", "--out")
    refused(limbeck("report", "one", "--out", "one"), "is a folder")
    assert json.loads((here / "one" / "result.json").read_text())["arms"]
    assert limbeck("report").code == 2


def test_without_matplotlib_it_explains_what_to_install(limbeck, here, monkeypatch):
    planted_run(here / "run", test=100, seeds=1)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    refused(limbeck("report", "run"), "matplotlib", "pip install 'limbeck[report]'")
    assert not (here / "run" / "report.html").exists()


def test_a_real_run_has_a_page(done, limbeck, monkeypatch):
    folder, ended = done
    monkeypatch.chdir(folder)
    assert ended.code == 0
    found = limbeck("report", "run", "--json").result
    assert found["unknown"] == []
    page = (folder / "run" / "report.html").read_text()
    for word in ("Reliability", "Confusion after", "class a", "data:image/png", "kl_divergence"):
        assert word in page
