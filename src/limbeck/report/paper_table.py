"""Table of a paper's numbers beside ours."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table
else:
    Table = Any  # rich is imported only when a table is drawn; type hints still resolve

_HEAD = ("experiment", "paper", "ours", "aim", "")


def paper_table(result: Mapping[str, Any]) -> Table:
    """Make a table with the paper's numbers beside ours.

    Args:
        result: The result of `limbeck.papers.Reproduction.run`.
    """
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(box=None, pad_edge=False, header_style="bold")
    for name in _HEAD:
        table.add_column(name, justify="left" if name in ("experiment", "") else "right", overflow="fold")
    for name, experiment in result["experiments"].items():
        table.add_row(Text(f"{name}: {experiment['title']}", style="bold"))
        for row in experiment["rows"]:
            table.add_row(*(Text(cell) for cell in _cells(row)))
    return table


def paper_markdown(result: Mapping[str, Any]) -> str:
    """Return the same table as Markdown, with the values of every seed and the notes."""
    lines = []
    for name, experiment in result["experiments"].items():
        lines += [
            f"### {name}",
            "",
            experiment["title"],
            "",
            "| | paper | ours | by seed | aim | |",
            "|---|--:|--:|---|--:|---|",
        ]
        for row in experiment["rows"]:
            label, paper, ours, aim, note = _cells(row)
            seeds = ", ".join(_number(value, row["unit"]) for value in row["ours"]["values"])
            indent = "&nbsp;&nbsp;" * ((len(label) - len(label.lstrip())) // 2)
            lines.append(f"| {indent}{label.strip()} | {paper} | {ours} | {seeds} | {aim} | {note} |")
        lines.append("")
    return "\n".join(lines)


def _cells(row: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    unit, ours = row["unit"], row["ours"]
    spread = statistics.stdev(ours["values"]) if len(ours["values"]) > 1 else None
    text = _number(ours["mean"], unit) + (f" ± {_number(spread, unit)}" if spread is not None else "")
    paper = "-" if row["paper"] is None else _number(row["paper"], unit)
    words = [] if row["met"] is None else ["met" if row["met"] else "missed"]
    words += [row["note"]] if row["note"] else []
    return row["name"], paper, f"{text} {unit}", _aim(row), "; ".join(words)


def _aim(row: Mapping[str, Any]) -> str:
    if row["aim"] is None:
        return ""
    return f"{'≤' if row['lower_is_better'] else '≥'} {_number(row['aim'], row['unit'])}"


def _number(value: float | int, unit: str) -> str:
    """Format a number with the digits of its unit."""
    digits = {"errors": 0 if float(value).is_integer() else 1, "%": 1, "points": 2}.get(unit, 3)
    return f"{value:,.{digits}f}"
