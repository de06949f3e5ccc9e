"""What does a person see while a job runs?"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import Any


def say(text: str, *, to_error: bool) -> None:
    """One line for people; on standard error where standard output belongs to a program."""
    print(text, file=sys.stderr if to_error else sys.stdout, flush=True)


class Watcher(AbstractContextManager["Watcher"]):
    """Told what a job does; shows bars in a terminal, and only the few sentences elsewhere.

    Args:
        to_error: Whether sentences go to standard error.
    """

    def __init__(self, *, to_error: bool) -> None:
        self._to_error = to_error
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._arms: Any = None

    def __enter__(self) -> Watcher:
        if sys.stderr.isatty():
            self._bars = _bars()
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, kind: str, what: Any) -> None:
        """What happened: ``say``, ``plan``, ``report`` or ``arm``; see `limbeck.compare.run_job`."""
        if kind == "say":
            say(what, to_error=self._to_error)
        elif self._bars is None:
            return
        elif kind == "plan" and what:
            self._arms = self._bars.add_task("arms x seeds", total=what, rate="", terms="")
        elif kind == "report":
            self._show_report(*what)
        elif kind == "arm" and self._arms is not None:
            accuracy = f"{what.arm}, seed {what.seed}: {100 * what.measures['accuracy']:.2f} %"
            self._bars.update(self._arms, advance=1, terms=accuracy)

    def _show_report(self, who: str, report: Any) -> None:
        key = f"{who} {report.stage}"
        if key not in self._tasks:
            for old in self._tasks.values():
                self._bars.remove_task(old)
            self._tasks.clear()
            title = who if report.stage in (who, "student") else f"{who} ({report.stage})"
            self._tasks[key] = self._bars.add_task(title, total=report.steps, rate="", terms="")
        terms = "  ".join(f"{name} {mean:.3g}" for name, mean in report.terms.items())
        rate = f"{report.rate:,.0f}/s"
        self._bars.update(self._tasks[key], completed=report.step, rate=rate, terms=terms)


def _bars() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[terms]}"),
        console=Console(stderr=True),
        transient=True,
    )
