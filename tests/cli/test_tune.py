"""`limbeck tune`: results, resume, errors, and the commands of its page."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest
import yaml

from limbeck.cli.experiments import sparkline
from limbeck.compare.tuning import read_ranges
from limbeck.job import make_job
from small_jobs import refused, small_job, stopped

DOCS = Path(__file__).resolve().parents[2] / "docs"


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), flags=re.M | re.S)


def test_it_shows_every_arm_and_what_to_type_next(here, limbeck, job):
    ended = limbeck("tune", job, "--trials", "2", "--out", "search")
    assert ended.code == 0, ended.err
    for said in ("student alone", "label smoothing", "distilled", "temperature", "Best of 2 trials each, on 15 dev"):
        assert said in ended.out
    assert "Test data were not used." in ended.out
    assert "limbeck compare search/best.yaml" in ended.out
    again = limbeck("tune", job, "--trials", "2", "--out", "search", "--json")
    assert again.result["run"] == "search"
    assert again.result["trials"] == 2
    assert json.loads((here / "search" / "tuned.json").read_text())["arms"] == again.result["arms"]


def test_the_job_it_leaves_is_compared_as_it_is(here, limbeck, job):
    found = limbeck("tune", job, "--trials", "2", "--range", "epochs=1", "--json").result
    assert found["run"] == "runs/tune"
    ended = limbeck("compare", found["best"], "--seeds", "2", "--out", "compared", "--json")
    assert ended.code == 0, ended.err
    assert "shuffled teacher" in ended.result["arms"], "what the job left to its default is left to compare"
    assert ended.result["arms"]["distilled"]["method"]["name"] == "hinton"


def test_a_search_that_was_interrupted_goes_on(here, limbeck, job):
    trials = here / "search" / "arms" / "distilled" / "trials.jsonl"
    words = ["-m", "limbeck", "tune", job, "--trials", "12", "--out", "search"]
    ended = stopped(words, cwd=here, when=lambda: trials.exists() and trials.read_text(), by=signal.SIGINT)
    assert ended is not None
    assert ended.code == 130
    assert "--out search" in ended.err
    kept = trials.read_text().splitlines()
    assert 1 <= len(kept) < 12
    again = limbeck("tune", job, "--trials", str(len(kept)), "--out", "search", "--json")
    assert again.code == 0, again.err
    noted = [{key: value for key, value in json.loads(line).items() if key != "crc32"} for line in kept]
    assert noted == again.result["arms"]["distilled"]["trials"]
    told = limbeck("resume", "search")
    assert told.code == 1
    assert "limbeck tune JOB --out search" in told.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--trials", "0"), "--trials 20"),
        (("--range", "temprature=1..2"), "Did you mean 'temperature'?"),
        (("--range", "lr=high"), "--range takes NAME=LOW..HIGH"),
        (("--set", "budgets.student=3"), "budgets"),
        (("--set", "budgets.distiled.lr=3"), "Unknown arm in budgets 'distiled'. Did you mean 'distilled'?"),
        (("--set", "budgets.distilled.lrr=3"), "Did you mean 'lr'?"),
        (("--set", "budgets.distilled.smoothing=0.1"), "only the arm 'label smoothing' smooths"),
        (("--set", "track=tensorbord"), "Did you mean 'tensorboard'?"),
    ],
)
def test_mistakes_are_told_in_a_sentence(limbeck, job, words, said):
    refused(limbeck("tune", job, *words), said)


def test_a_tracked_job_leaves_a_curve_for_every_arm_and_seed(here, limbeck, job):
    ended = limbeck("distill", job, "--set", "track=tensorboard", "--out", "run")
    assert ended.code == 0, ended.err
    found = {str(path.parent.relative_to(here / "run" / "tracked")) for path in (here / "run" / "tracked").rglob("ev*")}
    arms = ("student-alone", "label-smoothing", "distilled")
    assert found == {"teacher", *(f"{arm}/seed-{seed}" for arm in arms for seed in range(2))}


def test_a_tracker_of_the_user(here, limbeck, job):
    (here / "my.py").write_text(
        "class Lines:\n"
        "    def __init__(self, folder): self.folder = folder\n"
        "    def log(self, values, step):\n"
        "        self.folder.mkdir(parents=True, exist_ok=True)\n"
        "        with open(self.folder / 'lines', 'a') as opened: print(step, len(values), file=opened)\n"
        "    def close(self): (self.folder / 'closed').touch()\n"
        "def broken(folder): return folder\n"
    )
    ended = limbeck("distill", job, "--set", "track=my.py:Lines", "--out", "run")
    assert ended.code == 0, ended.err
    assert (here / "run" / "tracked" / "distilled" / "seed-1" / "lines").read_text()
    assert (here / "run" / "tracked" / "distilled" / "seed-1" / "closed").exists()
    assert yaml.safe_load((here / "run" / "job.yaml").read_text())["track"] == "my.py:Lines"
    refused(limbeck("distill", job, "--set", "track=my.py:broken", "--out", "other"), "a tracker has log(values, step)")
    refused(limbeck("distill", job, "--set", "track=my.py:Linse", "--out", "third"), "Did you mean 'Lines'?")


def test_a_row_of_bars():
    assert sparkline([0.5]) == sparkline([0.5, 0.5])[:1] == "█"
    assert sparkline([0.0, 1.0]) == "▁█"
    assert len(sparkline([i / 99 for i in range(100)])) == 20


@pytest.mark.parametrize("page", ["tune.md", "trackers.md"])
def test_the_page_s_python_runs(here, page):
    scope = {"__name__": page}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), scope)


def test_the_page_s_commands_and_jobs_are_some(tmp_path):
    (text,) = blocks("tune.md", "yaml")
    job = make_job({**small_job("digits"), **yaml.safe_load(text)})
    assert job.budget_of("student alone").epochs == 12
    assert job.budget_of("distilled").lr == 0.004
    ranges = re.findall(r"--range (\S+)", "\n".join(blocks("tune.md", "console")))
    assert read_ranges(ranges) == {"lr": (1e-4, 1e-2), "epochs": (20.0, 20.0), "temperature": (2.0, 8.0)}
