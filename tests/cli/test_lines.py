"""Progress of a job: lines without a terminal, bars in one."""

from __future__ import annotations

import io
import time
from typing import get_args

import pytest
from rich.console import Console

from limbeck.cli.terminal import ProgressCallback, ProgressLines
from limbeck.events import (
    ArmFinished,
    ArmsPlanned,
    EnsemblePlanned,
    Event,
    ImagesDecoded,
    Message,
    OutputsCached,
    StepsTaken,
    TrialFinished,
    TrialsPlanned,
)

STEPS = StepsTaken("student alone, seed 0", "", "", 30, 120, 2000.0, {"hinton": 0.5})
EVENTS = (
    Message("120 to learn from"),
    ImagesDecoded(3, 10),
    EnsemblePlanned(2),
    OutputsCached(4, 10),
    STEPS,
    ArmsPlanned(2),
    ArmFinished("student alone", 0, 0.9312),
    TrialsPlanned(2),
    TrialFinished("student alone", 1, 0.9312),
)


def test_each_arm_and_seed_has_a_line_that_counts():
    lines = []
    progress = ProgressLines(write=lines.append)
    progress.update(ArmsPlanned(2))
    progress.update(ArmFinished("student alone", 0, 0.9312))
    progress.update(ArmFinished("student alone", 1, 0.9312))
    assert len(lines) == 2
    assert all(word in lines[1] for word in ("student alone", "seed 1", "93.12 %", "2 of 2"))


def test_each_trial_has_a_line_that_counts():
    lines = []
    progress = ProgressLines(write=lines.append)
    progress.update(TrialsPlanned(3))
    progress.update(TrialFinished("distilled", 4, 0.5))
    assert all(word in lines[0] for word in ("distilled", "trial 4", "50.00 %", "1 of 3"))


def test_silence_is_broken_with_what_is_going_on_and_only_then():
    lines = []
    progress = ProgressLines(interval=0.05, write=lines.append)
    progress.start()
    progress.update(STEPS)
    deadline = time.monotonic() + 5
    while len(lines) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    progress.stop()
    assert len(lines) >= 2
    assert all("step 30 of 120" in line and "hinton 0.5" in line for line in lines)
    count = len(lines)
    time.sleep(0.15)
    assert len(lines) == count, "nothing is printed once it has stopped"


def test_silence_while_other_processes_train_tells_how_many_runs_are_done():
    lines = []
    progress = ProgressLines(interval=0.02, write=lines.append)
    for event in (OutputsCached(6, 6), ArmsPlanned(4), ArmFinished("student alone", 0, 0.9)):
        progress.update(event)
    progress.start()
    deadline = time.monotonic() + 5
    while len(lines) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    progress.stop()
    assert "1 of 4" in lines[-1]
    assert "outputs" not in lines[-1]


def test_a_message_is_not_repeated_at_once():
    lines = []
    progress = ProgressLines(interval=60.0, write=lines.append)
    progress.start()
    progress.update(Message("120 to learn from"))
    time.sleep(0.05)
    progress.stop()
    assert lines == []


def test_every_kind_of_event_is_tested_here():
    assert {type(event) for event in EVENTS} == set(get_args(Event))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("terminal", [True, False])
def test_every_event_is_handled(event, terminal, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    with ProgressCallback(to_error=False) as callback:
        callback(ArmsPlanned(2))
        callback(event)
    out = capsys.readouterr().out
    assert (event.text in out) if isinstance(event, Message) else not out


def test_stages_have_bars_of_their_own_and_branches_share_one(monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    titles = []
    with ProgressCallback(to_error=True) as callback:
        bars, add_task = callback._bars, callback._bars.add_task
        monkeypatch.setattr(bars, "add_task", lambda title, **how: titles.append(title) or add_task(title, **how))
        for part, title in (("0", "first"), ("0", "first"), ("1", "second"), ("2", ""), ("2", "")):
            callback(StepsTaken("distilled, seed 0", part, title, 1, 2, 1.0, {}))
    assert titles == ["distilled, seed 0: first", "distilled, seed 0: second", "distilled, seed 0"]


def test_a_job_without_a_terminal_has_a_line_for_every_arm_and_seed(done):
    _, run = done
    for arm_name in ("student alone", "label smoothing", "distilled"):
        for seed in (0, 1):
            assert sum(line.startswith(f"{arm_name}, seed {seed}: ") for line in run.err.splitlines()) == 1
    assert "6 of 6" in run.err


@pytest.mark.parametrize("columns", [60, 100, 200])
def test_the_terms_below_a_bar_are_whole_in_any_width(monkeypatch, columns):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    generation = {"finished": 20.0, "cut_off": 12.0, "tokens_per_second": 5000.0, "time_share": 0.5, "mean_age": 2.0}
    with ProgressCallback(to_error=True) as callback:
        callback(StepsTaken("student alone, seed 0", "", "", 1, 2, 1.0, {"kl_divergence": 1.234567}, generation))
        console = Console(width=columns, file=io.StringIO())
        for line in callback._bars.get_renderables():
            console.print(line)
    printed = console.file.getvalue()
    assert all(len(line) <= columns for line in printed.splitlines())
    assert "kl_divergence1.23texts32(12cutoff),5,000tokens/s,50%ofthetime,age2.0" in "".join(printed.split())
