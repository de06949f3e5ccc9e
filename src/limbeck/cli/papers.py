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
    from limbeck.papers import Event


def run_reproduce(
    paper: str,
    *,
    only: Sequence[str],
    scale: str,
    seeds: int | None,
    out: str | None,
    workers: int | None,
    as_json: bool,
) -> None:
    """Do what is left of a paper's experiments, and print the table."""
    from limbeck.papers import Reproduction

    whole = Reproduction(paper, only=only, scale=scale, seeds=seeds, out=out, workers=workers)
    print_message(f"{whole.paper.title}\n{_plan(whole)}\n", to_error=as_json)
    try:
        with _Shown(whole.seconds, to_error=as_json) as callback:
            result = whole.run(callback)
    except KeyboardInterrupt:
        print(
            f"Interrupted. The same command goes on where it stopped; what is done is in {whole.folder}.",
            file=sys.stderr,
        )
        sys.exit(130)
    _keep(result, whole.folder)
    _show(result, whole.folder, as_json=as_json)


def _plan(whole: Any) -> str:
    names, seconds = ", ".join(whole.experiments), whole.seconds
    seeds = f"{len(whole.scale.seeds)} seed{'s' if len(whole.scale.seeds) > 1 else ''}"
    if seconds == 0:
        return f"{names}, scale {whole.scale.name}, {seeds}: all done, in {whole.folder}."
    return (
        f"{names}, scale {whole.scale.name}, {seeds}: about {duration(seconds)} on this machine, in {whole.folder}. "
        "Stop it at any time; the same command goes on."
    )


class _Shown(AbstractContextManager[Any]):
    """Told what happens: a bar in a terminal, a line for each task that is done anywhere."""

    def __init__(self, seconds: float, *, to_error: bool) -> None:
        self._all = max(seconds, 1.0)
        self._to_error = to_error
        self._bar: Any = None
        self._running: list[str] = []

    def __enter__(self) -> _Shown:
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
        if event.kind == "begun":
            self._running.append(event.task)
        if event.kind == "done":
            self._running.remove(event.task)
            told = (
                f"{event.task}: {_brief(event.figures)} ({duration(event.seconds)}; {duration(event.remaining)} left)"
            )
            print_message(told, to_error=self._to_error)
        if self._bar is not None:
            self._all = max(self._all, event.remaining)
            about = f"{duration(event.remaining)} left · {', '.join(self._running)}"
            self._bar.update(0, completed=1 - event.remaining / self._all, description=about)


def _brief(figures: Any) -> str:
    """The first few numbers of what a task found."""
    shown = [f"{name} {value:g}" for name, value in figures.items() if isinstance(value, (int, float))]
    return ", ".join(shown[:3]) or "done"


def _keep(result: Any, folder: Path) -> None:
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
        print("\nAt scale quick these numbers say that all of it turns, not what it is worth: --scale full.")
    print(f"\nThe table with every seed's value is in {folder / 'table.md'}.", flush=True)
