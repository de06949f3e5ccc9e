"""`limbeck papers`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.atomic_io import write_text
from limbeck.cli.progress import duration, print_message

if TYPE_CHECKING:
    from limbeck.papers import Event, Reproduction


def run_papers(
    paper: str,
    *,
    only: Sequence[str],
    scale: str,
    seeds: int | None,
    out: str | None,
    workers: int | None,
    as_json: bool,
) -> None:
    """Run the remaining experiments of a paper and print the table."""
    from limbeck.papers import Reproduction

    reproduction = Reproduction(paper, only=only, scale=scale, seeds=seeds, out=out, workers=workers)
    print_message(f"{reproduction.paper.title}\n{_describe_plan(reproduction)}\n", to_error=as_json)
    try:
        with _PaperProgress(reproduction.seconds, to_error=as_json) as callback:
            result = reproduction.run(callback)
    except KeyboardInterrupt:
        print(
            f"Interrupted. Finished work is saved in {reproduction.folder}; run the same command again to continue.",
            file=sys.stderr,
        )
        sys.exit(130)
    _save(result, reproduction.folder)
    _show(result, reproduction.folder, as_json=as_json)


def _describe_plan(reproduction: Reproduction) -> str:
    names, seconds = ", ".join(reproduction.experiments), reproduction.seconds
    seeds = f"{len(reproduction.scale.seeds)} seed{'s' if len(reproduction.scale.seeds) > 1 else ''}"
    if seconds == 0:
        return f"{names}, scale {reproduction.scale.name}, {seeds}: all done, in {reproduction.folder}."
    return (
        f"{names}, scale {reproduction.scale.name}, {seeds}: about {duration(seconds)} on this machine, "
        f"in {reproduction.folder}. "
        "You can stop it at any time and run the same command again to continue."
    )


class _PaperProgress(AbstractContextManager[Any]):
    """Shows a progress bar in a terminal, and prints a line for each finished task."""

    def __init__(self, seconds: float, *, to_error: bool) -> None:
        self._all = max(seconds, 1.0)
        self._to_error = to_error
        self._bar: Any = None
        self._running: list[str] = []

    def __enter__(self) -> _PaperProgress:
        if sys.stderr.isatty():
            from rich.progress import BarColumn, Progress, TextColumn

            from limbeck.cli.terminal import make_console

            columns = (
                BarColumn(bar_width=20),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.description}"),
            )
            self._bar = Progress(*columns, console=make_console(stderr=True), transient=True)
            self._bar.add_task("", total=1.0)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, event: Event) -> None:
        from limbeck.papers import TaskFinished, TaskStarted

        if isinstance(event, TaskStarted):
            self._running.append(event.task)
            return
        if isinstance(event, TaskFinished):
            self._running.remove(event.task)
            line = (
                f"{event.task}: {_brief(event.figures)} ({duration(event.seconds)}; {duration(event.remaining)} left)"
            )
            print_message(line, to_error=self._to_error)
        if self._bar is not None:
            self._all = max(self._all, event.remaining)
            about = f"{duration(event.remaining)} left · {', '.join(self._running)}"
            self._bar.update(0, completed=1 - event.remaining / self._all, description=about)


def _brief(figures: Any) -> str:
    """Return the first few numbers of a task's result."""
    numbers = [f"{name} {value:g}" for name, value in figures.items() if isinstance(value, (int, float))]
    return ", ".join(numbers[:3]) or "done"


def _save(result: Any, folder: Path) -> None:
    from limbeck.report import paper_markdown

    write_text(json.dumps(result, indent=1, allow_nan=False), folder / "table.json")
    write_text(paper_markdown(result), folder / "table.md")


def _show(result: Any, folder: Path, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, allow_nan=False))
        return
    from limbeck.cli.terminal import make_console
    from limbeck.report import paper_table

    console = make_console()
    if not console.is_terminal:
        console.width = 140
    console.print()
    console.print(paper_table(result))
    if result["scale"] == "quick":
        print("\n`--scale quick` is only a smoke test. Use `--scale full` for comparable numbers.")
    print(f"\nThe table with the values of every seed is in {folder / 'table.md'}.", flush=True)
