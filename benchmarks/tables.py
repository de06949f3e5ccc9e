"""Figures of a benchmark as text tables, with their bars."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

BARS: Mapping[str, Mapping[str, tuple[str, float]]] = {
    "loop": {"ratio_float32": ("at most", 1.05), "ratio_bfloat16": ("at most", 1.05)},
    "cache": {
        "cached_step_over_plain_step": ("at most", 1.05),
        "cached_epoch_over_live_epoch": ("at most", 0.15),
        "gather_over_memmap": ("at least", 0.8),
        "bytes_per_record_top100_of_1000": ("at most", 250.0),
        "kl_error_over_float16_top100": ("at most", 1.03),
        "bytes_per_token_over_float16_top50": ("at most", 0.7),
        "build_over_teacher_forward": ("at most", 1.1),
        "corruptions_read_as_good": ("at most", 0.0),
        "identical_to_live": ("at least", 1.0),
    },
    "judging": {
        "measures_over_run": ("at most", 0.1),
        "report_seconds": ("at most", 5.0),
        "report_megabytes": ("at most", 6.0),
    },
    "coverage": {"least_coverage": ("at least", 0.93), "most_false_alarms": ("at most", 0.03)},
    "images": {
        "resized_crop_over_torchvision": ("at most", 1.5),
        "waiting": ("at most", 0.03),
        "same_bits": ("at least", 1.0),
    },
    "kernels": {},  # each row has bars of its own
    "head": {},
    "token_bytes": {},
    "on_policy": {},
    "tokenizers": {},
    "several": {"overhead_ensemble": ("at most", 0.05), "overhead_routed": ("at most", 0.05)},
    "lm_step": {"stored_over_alone_time": ("at most", 1.10), "stored_over_alone_memory": ("at most", 1.10)},
}
"""Benchmark -> figure -> its bar."""


def print_tables(name: str, result: Mapping[str, Any]) -> None:
    """Print the figures of a benchmark: those with a bar first, then the rest, then its tables."""
    bars = BARS[name]
    # A figure that could not be measured here, such as torchvision's, is None and meets no bar.
    rows = [_compare_to_bar(key, result[key], *bar) for key, bar in bars.items() if result[key] is not None]
    rest = {key: value for key, value in result.items() if key not in bars or value is None}
    tables = dict(_find_tables(rest)) | ({"loops": list(_loop_rows(result))} if name == "loop" else {})
    rows += [
        {"figure": key, "value": _format(value), "bar": "", "": ""}
        for key, value in rest.items() if not isinstance(value, dict) and key not in tables
    ]  # fmt: skip
    print(format_table(rows))
    for title, table in tables.items():
        print(f"\n{title}\n{format_table(table)}")


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys as aligned columns under their names."""
    cells = [list(rows[0]), *([_format(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def _compare_to_bar(figure: str, value: Any, side: str, bar: float) -> dict[str, str]:
    met = value <= bar if side == "at most" else value >= bar
    return {"figure": figure, "value": str(value), "bar": f"{side} {bar:g}", "": "met" if met else "missed"}


def _find_tables(result: Mapping[str, Any]) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    """The values that are lists of rows, also one level below."""
    for key, value in result.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            yield key, value
        elif key == "tables":
            yield from _find_tables(value)


def _loop_rows(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for precision, loops in result["milliseconds"].items():
        for name, milliseconds in loops.items():
            figures = result if name == "engine" else result["peers"].get(name, {})
            yield {
                "loop": name,
                "precision": precision,
                "ms a step": milliseconds,
                "times plain": figures.get(f"ratio_{precision}", 1),
                "quartiles": figures.get(f"quartiles_{precision}", ""),
            }


def _format(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_format(item)}" for key, item in value.items())
    if isinstance(value, Iterable) and not isinstance(value, str):
        return "-".join(map(_format, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
