"""How do the benchmarks run and show their result?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from limbeck.cli.progress import print_message
from limbeck.errors import LimbeckError

if TYPE_CHECKING:
    from rich.console import Console

BAR = 1.05
"""What the engine may cost at most, as a multiple of a loop written by hand."""


def run_loop_bench(*, as_json: bool, steps: int, threads: int | None) -> None:
    """Time the engine beside a hand-written loop, and print the figures."""
    from limbeck.bench import bench_loop

    result = bench_loop(steps=steps, threads=threads, say=lambda text: print_message(text, to_error=True))
    if as_json:
        print(json.dumps(result))
        return
    _show(result)


CACHE_BARS: Mapping[str, tuple[str, float]] = {
    "cached_step_over_plain_step": ("at most", 1.05),
    "cached_epoch_over_live_epoch": ("at most", 0.15),
    "gather_over_memmap": ("at least", 0.8),
    "bytes_per_record_top100_of_1000": ("at most", 250),
    "kl_error_over_float16_top100": ("at most", 1.03),
    "bytes_per_token_over_float16_top50": ("at most", 0.7),
    "build_over_teacher_forward": ("at most", 1.1),
    "corruptions_read_as_good": ("at most", 0),
    "identical_to_live": ("at least", 1),
}
"""What each figure of `bench cache` should be."""


def run_cache_bench(*, as_json: bool) -> None:
    """Time stored answers beside none and beside a live teacher, and print the figures."""
    from limbeck.bench import bench_cache

    result = bench_cache(say=lambda text: print_message(text, to_error=True))
    console = _shown(result, CACHE_BARS, as_json=as_json)
    if console is None:
        return
    for title, rows in result["tables"].items():
        console.print(f"\n{title}", highlight=False)
        console.print(_errors(rows))
    console.print(f"\n{result['threads']} threads, torch {result['torch']}.", highlight=False)


JUDGING_BARS: Mapping[str, tuple[str, float]] = {
    "measures_over_run": ("at most", 0.1),
    "report_seconds": ("at most", 5),
    "report_megabytes": ("at most", 6),
}
"""What each figure of `bench judging` should be."""


def run_judging_bench(*, as_json: bool) -> None:
    """Time a run's measures and a page about ten runs, and print the figures."""
    from limbeck.bench import bench_judging

    result = bench_judging(say=lambda text: print_message(text, to_error=True))
    console = _shown(result, JUDGING_BARS, as_json=as_json)
    if console is None:
        return
    parts = ", ".join(f"{result[f'cpu_seconds_{part}']:.2f} s {part}" for part in ("predictions", "measures", "costs"))
    console.print(
        f"\nA run of {result['cpu_seconds_run']:.1f} s of processor time: {parts}. Pages about {result['runs']} runs: "
        f"{', '.join(f'{one:.2f}' for one in result['report_seconds_each'])} s by the clock, "
        f"{result['report_cpu_seconds']:.2f} s of processor time. {result['threads']} threads, torch "
        f"{result['torch']}.",
        highlight=False,
    )


COVERAGE_BARS: Mapping[str, tuple[str, float]] = {
    "least_coverage": ("at least", 0.93),
    "most_false_alarms": ("at most", 0.03),
}
"""What each figure of `bench coverage` should be."""


def run_coverage_bench(*, as_json: bool, simulations: int) -> None:
    """Simulate verdicts, and print how often they are true."""
    from limbeck.bench import bench_coverage
    from limbeck.bench.coverage import CoverageScale

    result = bench_coverage(
        scale=CoverageScale(simulations=simulations), say=lambda text: print_message(text, to_error=True)
    )
    console = _shown(result, COVERAGE_BARS, as_json=as_json)
    if console is None:
        return
    for title, rows in (("Intervals", result["coverage"]), ("The best of several", result["false_alarms"])):
        console.print(f"\n{title}, {result['simulations']:,} simulations a row", highlight=False)
        console.print(_plain_table(rows))


def _plain_table(rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*map(str, row.values()))
    return table


PICTURE_BARS: Mapping[str, tuple[str, float]] = {
    "resized_crop_over_torchvision": ("at most", 1.5),
    "waiting": ("at most", 0.03),
    "same_bits": ("at least", 1),
}
"""What each figure of `bench pictures` should be."""


def run_picture_bench(*, as_json: bool, torchvision_python: str | None) -> None:
    """Time crops beside torchvision's and a folder beside a busy device, and print the figures."""
    from limbeck.bench import bench_pictures

    result = bench_pictures(torchvision_python=torchvision_python, say=lambda text: print_message(text, to_error=True))
    bars = {name: bar for name, bar in PICTURE_BARS.items() if result[name] is not None}
    console = _shown(result, bars, as_json=as_json)
    if console is None:
        return
    console.print(
        f"\nResizedCrop: {result['resized_crop_milliseconds']} ms an image; torchvision {result['torchvision']}: "
        f"{result.get('torchvision_milliseconds', '-')} ms. Waiting without threads: "
        f"{result['waiting_no_workers']:.1%}; with DataLoader and 2 processes: {result['waiting_data_loader']:.1%}. "
        f"{result['num_workers']} threads, torch {result['torch']}.",
        highlight=False,
    )


def run_kernel_bench(*, as_json: bool, shapes: Sequence[str] = ()) -> None:
    """Time losses beside plain PyTorch, and print a table; of the usual shapes, or of these, written 256x1000."""
    from limbeck.bench import bench_kernels

    asked: dict[str, Any] = {"shapes": [_rows_and_classes(one) for one in shapes], "features": ()} if shapes else {}
    result = bench_kernels(say=lambda text: print_message(text, to_error=True), **asked)
    if as_json:
        print(json.dumps(result))
        return
    from rich.table import Table

    from limbeck.cli.terminal import make_console

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("kernel", "shape", "time", "least", "bar", "memory", "bar", "us", "peer"):
        left = column in ("kernel", "shape", "peer")
        table.add_column(column, justify="left" if left else "right", no_wrap=column != "peer", overflow="fold")
    for row in result["kernels"]:
        shape, taken = "x".join(map(str, row["shape"])), str(row["microseconds"]["limbeck"])
        figures = [f"{row[key]:.2f}" for key in ("time", "least_time", "time_bar", "memory")]
        bar = "" if row["memory_bar"] is None else f"{row['memory_bar']:.2f}"
        table.add_row(row["kernel"], shape, *figures, bar, taken, row["peer"])
    console = make_console()
    console.print(table)
    console.print(
        "\nTime (median of ratios; least over least) and memory are multiples of the peer's. One thread, processor "
        f"time. torch {result['torch']}.",
        highlight=False,
    )


def _rows_and_classes(text: str) -> tuple[int, int]:
    rows, _, classes = text.partition("x")
    if not (rows.isdecimal() and classes.isdecimal()):
        raise LimbeckError(f"--shape is rows x classes, such as 2048x32000; got {text!r}.")
    return int(rows), int(classes)


def _shown(result: Mapping[str, Any], bars: Mapping[str, tuple[str, float]], *, as_json: bool) -> Console | None:
    """Print the figures beside their bars, and give the console for what is to follow; as JSON nothing is."""
    if as_json:
        print(json.dumps(result))
        return None
    from limbeck.cli.terminal import make_console

    console = make_console()
    console.print(_beside_bars(result, bars))
    return console


def _beside_bars(result: Mapping[str, Any], bars: Mapping[str, tuple[str, float]]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("figure", "value", "bar", ""):
        table.add_column(column, justify="right" if column == "value" else "left")
    for name, (side, bar) in bars.items():
        value = result[name]
        met = value <= bar if side == "at most" else value >= bar
        table.add_row(name, str(value), f"{side} {bar:g}", "met" if met else "missed", style=None if met else "bold")
    return table


def _errors(rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table("k", "bytes", "KL error, nats", "float16 and packed ids: bytes", "KL error, nats", box=None)
    for row in rows:
        table.add_row(
            str(row["k"]), str(row["bytes"]), f"{row['kl_error']:.3g}", str(row["float16_bytes"]),
            f"{row['float16_kl_error']:.3g}",
        )  # fmt: skip
    return table


def _show(result: Mapping[str, Any]) -> None:
    from rich.table import Table

    from limbeck.cli.terminal import make_console

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("loop", "precision", "ms a step", "times plain", "quartiles"):
        table.add_column(column, justify="left" if column in ("loop", "precision") else "right")
    for row in _rows(result):
        table.add_row(*row, style="bold" if row[0] == "engine" else None)
    console = make_console()
    console.print(table)
    for name, peer in result["peers"].items():
        about = f"skipped, {peer['skipped']}" if "skipped" in peer else f"{peer['version']}. {peer['note']}"
        console.print(f"\n{name}: {about}", highlight=False, markup=False)
    worst = max(result["ratio_float32"], result["ratio_bfloat16"])
    met = "within" if worst <= BAR else "above"
    console.print(
        f"\n{result['steps']} steps in blocks of {result['block']}, {result['threads']} threads, torch "
        f"{result['torch']}. The engine is {met} its bar of {BAR} times the plain loop.",
        highlight=False,
    )


def _rows(result: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for precision, loops in result["milliseconds"].items():
        for name, milliseconds in loops.items():
            if name == "plain":
                yield name, precision, f"{milliseconds:.2f}", "1", ""
                continue
            figures = result if name == "engine" else result["peers"][name]
            low, high = figures[f"quartiles_{precision}"]
            yield (
                name,
                precision,
                f"{milliseconds:.2f}",
                f"{figures[f'ratio_{precision}']:.3f}",
                f"{low:.3f}-{high:.3f}",
            )
