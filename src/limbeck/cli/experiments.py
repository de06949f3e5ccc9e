"""`limbeck tune` and `limbeck papers`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from limbeck.atomic_io import write_text
from limbeck.cli.jobs import check_methods, free_folder, named_methods, requested_job
from limbeck.cli.terminal import ProgressCallback, duration, print_message

if TYPE_CHECKING:
    from limbeck.job import Job
    from limbeck.papers import Event, Reproduction


def run_tune(
    path: str | None, flags: Mapping[str, Any], settings: Sequence[str], ranges: Sequence[str], *, trials: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Tune the settings of every arm, and print the result and the next command."""
    job = _job(path, flags, settings)
    try:
        with ProgressCallback(to_error=as_json) as callback:
            from limbeck.compare.tuning import read_ranges, tune

            result = tune(job, trials=trials, ranges=read_ranges(list(ranges)), callback=callback)
    except KeyboardInterrupt:
        print(
            f"Interrupted. Finished trials are saved; continue with the same command and --out {quote(str(job.out))}.",
            file=sys.stderr,
        )
        sys.exit(130)
    if as_json:
        print(json.dumps(result, allow_nan=False))
    else:
        _show_search(result)


def _job(path: str | None, flags: Mapping[str, Any], settings: Sequence[str]) -> Job:
    from limbeck.job import make_job

    job = make_job(requested_job(path, {**flags, "methods": named_methods(flags)}, settings))
    check_methods(job)
    return job if flags.get("out") else job.model_copy(update={"out": free_folder("runs/tune")})


def _show_search(result: Mapping[str, Any]) -> None:
    from limbeck.cli.terminal import make_console

    console = make_console()
    if not console.is_terminal:
        console.width = 120
    console.print()
    console.print(_table(result))
    console.print()
    examples, luck = result["development"]["examples"], result["development"]["luck"]
    chance = f"differences below {100 * luck:.1f} points may be chance, and " if luck else ""
    from limbeck.job.result import read_task

    units = read_task(result).primary.examples
    print_message(
        f"Best of {result['trials']} trials each, on {examples:,} development {units}: {chance}the best of many "
        "trials is biased up. Test data were not used.",
        to_error=False,
    )
    total, teacher = duration(result["seconds"]), duration(result["teacher"]["seconds"])
    print_message(f"Time: {total}, of which {teacher} for the teacher.\n", to_error=False)
    print_message(
        f"    limbeck compare {quote(result['best'])}     # run every arm with its best settings", to_error=False
    )


def _table(result: Mapping[str, Any]) -> Any:
    from rich.table import Table

    from limbeck.job.result import read_task

    table = Table(box=None, pad_edge=False, header_style="bold")
    score = read_task(result).primary
    unit = "%" if score.percent else score.title
    for name in ("arm", f"default\n{unit}", f"best\n{unit}", "so far", "total\nepochs", "time", "best settings"):
        table.add_column(name, justify="left" if name in ("arm", "so far", "best settings") else "right")
    for arm, row in result["arms"].items():
        own, best = row["own"]["accuracy"], row["best"]["accuracy"]
        values = "  ".join(f"{name} {value:.3g}" for name, value in row["best"]["values"].items())
        table.add_row(
            arm, *(score.format(value).removesuffix(" %") for value in (own, best)), sparkline(row["best_so_far"]),
            f"{row['epochs']:,}", duration(row["seconds"]), values,
        )  # fmt: skip
    return table


def sparkline(values: Sequence[float], *, width: int = 20) -> str:
    """Draw values as a row of bars. More values than `width` are subsampled.

    Example:
        >>> sparkline([0.1, 0.2, 0.2, 0.9])
        '▁▂▂█'
    """
    bars = "▁▂▃▄▅▆▇█"
    if len(values) > width:
        values = [values[round(i * (len(values) - 1) / (width - 1))] for i in range(width)]
    low, high = min(values), max(values)
    return "".join(bars[round((value - low) / (high - low) * 7) if high > low else 7] for value in values)


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
    """Run the remaining experiments of a paper and print the table; list the papers that other words are about.

    Raises:
        UnknownNameError: If no paper has this name or these words.
    """
    from limbeck.papers import Reproduction, paper_names

    if paper not in paper_names():
        _list_hits(paper, as_json=as_json)
        return
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
    _show_experiments(result, reproduction.folder, as_json=as_json)


def _list_hits(query: str, *, as_json: bool) -> None:
    """List the papers with these words; a search runs none, as that takes minutes."""
    from limbeck.errors import unknown_name_error
    from limbeck.papers import paper_names
    from limbeck.papers.search import find_papers

    hits = find_papers(query)
    if not hits:
        words = "Or words: an author, a year, an arXiv number, the name of a method. Without a name, all are listed."
        raise unknown_name_error("paper", query, paper_names(), then=words)
    list_papers(hits, as_json=as_json)
    if not as_json:
        print(f"{len(hits)} paper{'s' * (len(hits) > 1)} with {query!r}. `limbeck papers NAME` runs one.")


def list_papers(chosen: Sequence[str] | None = None, *, as_json: bool) -> None:
    """List papers, with their claims, their experiments, the command of each, and how long it takes.

    Args:
        chosen: The names of the papers; by default all.
        as_json: Print JSON.
    """
    from limbeck.papers.reproduction import SCALES, paper_names
    from limbeck.papers.reproduction import paper as find_paper

    papers = [find_paper(name) for name in (paper_names() if chosen is None else chosen)]
    seconds = {one.name: {scale: one.seconds(scale) for scale in SCALES} for one in papers}
    missing = {one.name: one.skipped("quick") for one in papers}
    if as_json:
        rows = [
            {
                "name": one.name,
                "title": one.title,
                "claim": one.claim,
                "experiments": {name: experiment.title for name, experiment in one.experiments.items()},
                "seeds": dict(one.seeds),
                "seconds": seconds[one.name],
                "skipped": missing[one.name],
            }
            for one in papers
        ]
        print(json.dumps({"papers": rows}))
        return
    for one in papers:
        runs = len(missing[one.name]) < len(one.experiments)
        costs = ", ".join(f"{scale} {duration(seconds[one.name][scale])}" for scale in SCALES)
        head = f"one core: {costs}" if runs else "its data are missing"
        print(f"limbeck papers {one.name}    ({head})\n    {one.title}\n    Claim: {one.claim}")
        for name, experiment in one.experiments.items():
            print(f"    {name}: {experiment.title}")
            if name in missing[one.name]:
                print(f"        Cannot run yet. {missing[one.name][name]}")
        print()


def _describe_plan(reproduction: Reproduction) -> str:
    skipped = "".join(f"\n{name} is skipped. {reason}" for name, reason in reproduction.skipped.items())
    return _describe_time(reproduction) + skipped if reproduction.experiments else skipped.strip()


def _describe_time(reproduction: Reproduction) -> str:
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
    from limbeck.papers import summary_text
    from limbeck.report import paper_markdown

    write_text(json.dumps(result, indent=1, allow_nan=False), folder / "table.json")
    write_text(paper_markdown(result), folder / "table.md")
    write_text(summary_text(result), folder / "claims.json")


def _show_experiments(result: Any, folder: Path, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, allow_nan=False))
        return
    from limbeck.cli.terminal import make_console
    from limbeck.report import paper_tables

    console = make_console()
    if not console.is_terminal:
        console.width = 140
    console.print()
    for table in paper_tables(result):
        console.print(table)
        console.print()
    if result["scale"] == "quick":
        print("\n`--scale quick` is short training on few examples. Use `--scale full` for comparable numbers.")
    print(f"\nThe table with the values of every seed is in {folder / 'table.md'}.", flush=True)
