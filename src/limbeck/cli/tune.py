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
        f"{100 * luck:.1f} points may be chance, and the best of many trials is biased up. Test data were not used.",
        to_error=False,
    )
    total, teacher = duration(result["seconds"]), duration(result["teacher"]["seconds"])
    print_message(f"Time: {total}, of which {teacher} for the teacher.\n", to_error=False)
    print_message(
        f"    limbeck compare {quote(result['best'])}     # run every arm with its best settings", to_error=False
    )


def _table(result: Mapping[str, Any]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("arm", "default\n%", "best\n%", "so far", "total\nepochs", "time", "best settings"):
        table.add_column(name, justify="left" if name in ("arm", "so far", "best settings") else "right")
    for arm, row in result["arms"].items():
        own, best = row["own"]["accuracy"], row["best"]["accuracy"]
        values = "  ".join(f"{name} {value:.3g}" for name, value in row["best"]["values"].items())
        table.add_row(
            arm, f"{100 * own:.2f}", f"{100 * best:.2f}", sparkline(row["best_so_far"]), f"{row['epochs']:,}",
            duration(row["seconds"]), values,
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
