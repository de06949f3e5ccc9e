"""What does a person see while a job runs?"""

from __future__ import annotations

import re
import sys
from contextlib import AbstractContextManager
from typing import Any

from limbeck.cli.lines import ProgressLines
from limbeck.errors import printable


def say(text: str, *, to_error: bool) -> None:
    """One line for people; on standard error where standard output belongs to a program."""
    print(printable(text), file=sys.stderr if to_error else sys.stdout, flush=True)


def duration(seconds: float) -> str:
    """So many seconds, as people say it.

    Example:
        >>> duration(5400)
        '1.5 h'
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Watcher(AbstractContextManager["Watcher"]):
    """Shows what a job does: bars in a terminal, and elsewhere a line for each arm and seed and every 30 seconds.

    Args:
        to_error: Whether sentences go to standard error.
    """

    def __init__(self, *, to_error: bool) -> None:
        self._to_error = to_error
        self._bars: Any = None
        self._lines: ProgressLines | None = None
        self._key: str | None = None
        self._task: Any = None
        self._arms: Any = None

    def __enter__(self) -> Watcher:
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
            say(what, to_error=self._to_error)
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

    class Terms(ProgressColumn):
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
        Terms(),
        console=make_console(stderr=True),
        transient=True,
        # Lines for a file or a pipe go there, not above the bars.
        redirect_stdout=sys.stdout.isatty(),
    )
