"""Progress of a job: bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from limbeck.errors import printable


class ProgressLines:
    """Prints a line for each finished arm and seed, and the current status every `interval` seconds.

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
        """Take an event of `limbeck.compare.run_job`; see `limbeck.compare.teacher_training.Callback` for the kinds."""
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
    text = f"{who}: step {report.step:,} of {report.steps:,}, {report.rate:,.0f} examples/s"
    return f"{text}, {terms}" if terms else text


def _write_to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def print_message(text: str, *, to_error: bool) -> None:
    """Print a message, on standard error if standard output is reserved for JSON."""
    print(printable(text), file=sys.stderr if to_error else sys.stdout, flush=True)


def duration(seconds: float) -> str:
    """Format a number of seconds for people.

    Example:
        >>> duration(5400)
        '1.5 h'
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class ProgressCallback(AbstractContextManager["ProgressCallback"]):
    """Shows the progress of a job: bars in a terminal, plain lines elsewhere.

    Args:
        to_error: Whether messages go to standard error.
    """

    def __init__(self, *, to_error: bool) -> None:
        self._to_error = to_error
        self._bars: Any = None
        self._lines: ProgressLines | None = None
        self._key: str | None = None
        self._task: Any = None
        self._arms: Any = None

    def __enter__(self) -> ProgressCallback:
        if sys.stderr.isatty():
            self._bars = _bars()
            self._bars.start()
        else:
            self._lines = ProgressLines()
            self._lines.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()
        if self._lines is not None:
            self._lines.stop()

    def __call__(self, kind: str, what: Any) -> None:
        """What happened, as `limbeck.compare.run_job` tells it."""
        if kind == "say":
            print_message(what, to_error=self._to_error)
        if self._lines is not None:
            self._lines.update(kind, what)
        if kind == "say" or self._bars is None:
            return
        if kind in ("plan", "trials"):
            self._clear()
            title = "arms x seeds" if kind == "plan" else "trials"
            self._arms = self._bars.add_task(title, total=what, rate="", terms="")
        elif kind == "members":
            self._show("teacher", "teacher", what)
        elif kind == "report":
            self._show_report(*what)
        elif kind in ("answers", "files"):
            self._show(kind, "answers" if kind == "answers" else "decoding", what[1])
            self._bars.update(self._task, completed=what[0])
        elif kind == "trial" and self._arms is not None:
            arm, trial = what
            self._bars.update(self._arms, advance=1, terms=f"{arm}, trial {trial.number}: {100 * trial.accuracy:.2f} %")
        elif kind == "arm" and self._arms is not None:
            accuracy = f"{what.arm}, seed {what.seed}: {100 * what.measures['accuracy']:.2f} %"
            self._bars.update(self._arms, advance=1, terms=accuracy)

    def _show_report(self, who: str, report: Any) -> None:
        several = re.match(r"[\d.]+ (?P<stage>.+)", report.stage)
        apart = several is not None and several["stage"].startswith("branch ")
        title = f"{who}: {several['stage']}" if several and not apart else who
        self._show(who if apart else f"{who} {report.stage}", title, report.steps)
        terms = "  ".join(f"{name} {mean:.3g}" for name, mean in report.terms.items())
        self._bars.update(self._task, completed=report.step, rate=f"{report.rate:,.0f}/s", terms=terms)

    def _show(self, key: str, title: str, total: int) -> None:
        """A bar of its own for what is running now, in the place of the one before."""
        if key != self._key:
            self._clear()
            self._key, self._task = key, self._bars.add_task(title, total=total, rate="", terms="")

    def _clear(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._key = self._task = None


def _bars() -> Any:
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.table import Column
    from rich.text import Text

    from limbeck.cli.terminal import make_console

    class TermsColumn(ProgressColumn):
        """What is left of the line; the other columns keep their width."""

        def render(self, task: Any) -> Text:
            return Text(task.fields["terms"], style="dim", no_wrap=True, overflow="ellipsis")

    def fixed() -> Column:
        return Column(no_wrap=True)

    return Progress(
        TextColumn("{task.description}", table_column=fixed()),
        BarColumn(bar_width=12, table_column=fixed()),
        TextColumn("{task.percentage:>3.0f}%", table_column=fixed()),
        TextColumn("{task.fields[rate]}", table_column=fixed(), justify="right"),
        TimeRemainingColumn(compact=True, table_column=fixed()),
        TermsColumn(),
        console=make_console(stderr=True),
        transient=True,
        # Lines for a file or a pipe go there, not above the bars.
        redirect_stdout=sys.stdout.isatty(),
    )
