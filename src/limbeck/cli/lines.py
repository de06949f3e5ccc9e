"""Progress as plain lines, for logs, pipes and batch systems, where there is no terminal for bars."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any


class ProgressLines:
    """Prints a line for each finished arm and seed, and says every `interval` seconds what is going on.

    A thread prints the repeated line, because some parts of a job (measuring corruptions, for example) report nothing
    for minutes. It is a daemon, so it never keeps a process alive.

    Args:
        interval: Seconds without a line after which one is printed.
        write: Where lines go; standard error by default, as bars do.
    """

    def __init__(self, *, interval: float = 30.0, write: Callable[[str], None] | None = None) -> None:
        self._interval = interval
        self._write = write or _write_to_stderr
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._start = self._last = time.monotonic()
        self._status = "starting"
        self._total = self._done = 0

    def start(self) -> None:
        """Begin to watch the clock."""
        self._start = self._last = time.monotonic()
        self._thread = threading.Thread(target=self._repeat, name="limbeck-progress", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop; no line is printed after this returns."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def update(self, kind: str, what: Any) -> None:
        """Take an event of `limbeck.compare.run_job`; see `limbeck.compare.teaching.Watch` for the kinds."""
        if kind == "say":
            # The sentence itself is printed by the caller.
            self._remember(str(what), printed=True)
        elif kind in ("plan", "trials"):
            self._total, self._done = int(what), 0
        elif kind == "members":
            self._remember(f"teacher: {what} to train" if what > 1 else "teacher")
        elif kind == "answers":
            self._remember(f"teacher's answers: {what[0]:,} of {what[1]:,}")
        elif kind == "report":
            self._remember(_describe_report(*what))
        elif kind == "arm":
            self._count(f"{what.arm}, seed {what.seed}: {100 * what.measures['accuracy']:.2f} %")
        elif kind == "trial":
            arm, trial = what
            self._count(f"{arm}, trial {trial.number}: {100 * trial.accuracy:.2f} %")

    def _remember(self, status: str, *, printed: bool = False) -> None:
        with self._lock:
            self._status = status
            if printed:
                self._last = time.monotonic()

    def _count(self, text: str) -> None:
        with self._lock:
            self._done += 1
            # What a killed run had finished is told again on resume, so the count can pass a plan that left it out.
            of = f"{self._done} of {max(self._total, self._done)}" if self._total else f"{self._done}"
            self._print(f"{text} ({of}, {self._elapsed()})")

    def _repeat(self) -> None:
        while not self._stop.wait(min(self._interval / 4, 1.0)):
            with self._lock:
                if time.monotonic() - self._last >= self._interval:
                    self._print(f"... {self._status} ({self._elapsed()})")

    def _print(self, line: str) -> None:
        self._last = time.monotonic()
        if not self._stop.is_set():
            self._write(line)

    def _elapsed(self) -> str:
        seconds = int(time.monotonic() - self._start)
        return f"{seconds // 60}:{seconds % 60:02d} min" if seconds >= 60 else f"{seconds} s"


def _describe_report(who: str, report: Any) -> str:
    terms = "  ".join(f"{name} {mean:.3g}" for name, mean in report.terms.items())
    said = f"{who}: step {report.step:,} of {report.steps:,}, {report.rate:,.0f} examples/s"
    return f"{said}, {terms}" if terms else said


def _write_to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
