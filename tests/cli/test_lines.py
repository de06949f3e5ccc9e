"""Progress where there is no terminal: a line for each arm and seed, and one whenever nothing was said for a while."""

from __future__ import annotations

import time
from types import SimpleNamespace

from limbeck.cli.progress import ProgressLines


def arm(seed):
    return SimpleNamespace(arm="student alone", seed=seed, measures={"accuracy": 0.9312})


def test_each_arm_and_seed_has_a_line_that_counts():
    lines = []
    progress = ProgressLines(write=lines.append)
    progress.update("plan", 2)
    progress.update("arm", arm(0))
    progress.update("arm", arm(1))
    assert len(lines) == 2
    assert all(word in lines[1] for word in ("student alone", "seed 1", "93.12 %", "2 of 2"))


def test_silence_is_broken_with_what_is_going_on_and_only_then():
    lines = []
    progress = ProgressLines(interval=0.05, write=lines.append)
    progress.start()
    report = SimpleNamespace(step=30, steps=120, rate=2000.0, terms={"hinton": 0.5})
    progress.update("report", ("student alone, seed 0", report))
    deadline = time.monotonic() + 5
    while len(lines) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    progress.stop()
    assert len(lines) >= 2
    assert all("step 30 of 120" in line and "hinton 0.5" in line for line in lines)
    count = len(lines)
    time.sleep(0.15)
    assert len(lines) == count, "nothing is printed once it has stopped"


def test_a_line_said_a_moment_ago_is_not_repeated():
    lines = []
    progress = ProgressLines(interval=60.0, write=lines.append)
    progress.start()
    progress.update("say", "120 to learn from")
    time.sleep(0.05)
    progress.stop()
    assert lines == []


def test_a_job_without_a_terminal_has_a_line_for_every_arm_and_seed(done):
    _, run = done
    for arm_name in ("student alone", "label smoothing", "distilled"):
        for seed in (0, 1):
            assert sum(line.startswith(f"{arm_name}, seed {seed}: ") for line in run.err.splitlines()) == 1
    assert "6 of 6" in run.err
