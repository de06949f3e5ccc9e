"""`limbeck tune`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from shlex import quote
from typing import TYPE_CHECKING, Any

from limbeck.cli.jobs import check_methods, free_folder, named_methods, requested_job
from limbeck.cli.progress import ProgressCallback, duration, print_message

if TYPE_CHECKING:
    from limbeck.job import Job


def run_tune(
    path: str | None, flags: Mapping[str, Any], settings: Sequence[str], ranges: Sequence[str], *, trials: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Search every arm's settings; show what was found, and what to type next."""
    job = _job(path, flags, settings)
    try:
        with ProgressCallback(to_error=as_json) as callback:
            from limbeck.compare.tuning import read_ranges, tune

            result = tune(job, trials=trials, ranges=read_ranges(list(ranges)), callback=callback)
    except KeyboardInterrupt:
        print(
            f"Interrupted. The trials so far are kept: the same command goes on, with --out {quote(str(job.out))}.",
            file=sys.stderr,
        )
        sys.exit(130)
    if as_json:
        print(json.dumps(result, allow_nan=False))
    else:
        _show(result)


def _job(path: str | None, flags: Mapping[str, Any], settings: Sequence[str]) -> Job:
    from limbeck.job import make_job

    job = make_job(requested_job(path, {**flags, "methods": named_methods(flags)}, settings))
    check_methods(job)
    return job if flags.get("out") else job.model_copy(update={"out": free_folder("runs/tune")})


def _show(result: Mapping[str, Any]) -> None:
    from limbeck.cli.terminal import make_console

    console = make_console()
    if not console.is_terminal:
        console.width = 120
    console.print()
    console.print(_table(result))
    console.print()
    examples, luck = result["development"]["examples"], result["development"]["luck"]
    print_message(
        f"Best of {result['trials']} trials each, on {examples:,} development examples: differences below "
        f"{100 * luck:.1f} points may be luck, and the best of many is flattered. Test data were not read.",
        to_error=False,
    )
    seconds = result["teacher"]["seconds"]
    print_message(f"{duration(result['seconds'])}, of which {duration(seconds)} for the teacher.\n", to_error=False)
    print_message(
        f"    limbeck compare {quote(result['best'])}     # every arm with its own best values", to_error=False
    )


def _table(result: Mapping[str, Any]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("arm", "own\n%", "best\n%", "so far", "epochs\nin all", "time", "best values"):
        table.add_column(name, justify="left" if name in ("arm", "so far", "best values") else "right")
    for arm, row in result["arms"].items():
        own, best = row["own"]["accuracy"], row["best"]["accuracy"]
        values = "  ".join(f"{name} {value:.3g}" for name, value in row["best"]["values"].items())
        table.add_row(
            arm, f"{100 * own:.2f}", f"{100 * best:.2f}", sparkline(row["best_so_far"]), f"{row['epochs']:,}",
            duration(row["seconds"]), values,
        )  # fmt: skip
    return table


def sparkline(values: Sequence[float], *, width: int = 20) -> str:
    """Values as a row of bars, the least of them the lowest; of many every so manieth.

    Example:
        >>> sparkline([0.1, 0.2, 0.2, 0.9])
        '▁▂▂█'
    """
    bars = "▁▂▃▄▅▆▇█"
    shown = (
        [values[round(i * (len(values) - 1) / (width - 1))] for i in range(width)] if len(values) > width else values
    )
    low, high = min(shown), max(shown)
    return "".join(bars[round((value - low) / (high - low) * 7) if high > low else 7] for value in shown)
