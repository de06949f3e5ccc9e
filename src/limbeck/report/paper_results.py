"""Tables for the terminal and for Markdown: the numbers of a paper beside limbeck's, and the words of its claims."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table
else:
    Table = Any  # rich is imported only when a table is drawn; type hints still resolve

_HEAD = ("experiment", "paper", "ours", "aim", "")
_MARKDOWN_HEAD = ("", "paper", "ours", "by seed", "aim", "")
_LEFT = ("experiment", "claim", "word", "by seed", "")
_NOTHING = ("", "-")
"""Cells without a value. A column that has no other cells is left out."""
_FEW_SEEDS = 3
"""Up to so many seeds, a t-interval is several times as wide as one of five."""
_CLAIM_HEAD = ("claim", "paper", "ours", "95 % interval", "word")


def paper_tables(result: Mapping[str, Any]) -> list[Table]:
    """Make tables with the paper's numbers next to limbeck's, and one with the word of each claim.

    A column in which no row has a value is left out.

    Args:
        result: The result of `limbeck.papers.Reproduction.run`.
    """
    from rich.table import Table as RichTable
    from rich.text import Text

    tables: list[Table] = []

    def add(head: Sequence[str], lines: Sequence[Sequence[str]], title: str, caption: str | None = None) -> None:
        head, lines = _drop_empty(head, lines)
        table = RichTable(box=None, pad_edge=False, header_style="bold", title_justify="left", caption_justify="left")
        table.title, table.caption = Text(title, style="bold") if title else None, caption
        for name in head:
            table.add_column(name, justify="left" if name in _LEFT else "right", overflow="fold")
        for line in lines:
            table.add_row(*map(Text, line))
        tables.append(table)

    for name, experiment in result["experiments"].items():
        title = f"{name}: {experiment['title']}"
        plain, wide = _split_columns(experiment["rows"])
        if wide:
            columns, cells = _cross(wide)
            add(["", *columns], cells, title)
        if plain:
            add(_HEAD, [_paper_cells(row) for row in plain], "" if wide else title)
    if claims := [claim for experiment in result["experiments"].values() for claim in experiment.get("claims", ())]:
        add(_CLAIM_HEAD, [claim_cells(claim) for claim in claims], result.get("claim", "Claims"), claims_note(claims))
    return tables


def _drop_empty(head: Sequence[str], lines: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """The head and the lines of a table without the columns that have no values, such as those of an aim."""
    places = [i for i in range(len(head)) if i == 0 or any(line[i] not in _NOTHING for line in lines)]
    return [head[i] for i in places], [[line[i] for i in places] for line in lines]


def _split_columns(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """The rows that stand alone, and those that are cells of a table with columns of its own."""
    wide = [row for row in rows if row.get("column")]
    return [row for row in rows if not row.get("column")], wide


def _cross(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The names of the columns with their units, and the lines of a table of rows with columns."""
    lines: dict[str, dict[str, str]] = {}
    for row in rows:
        lines.setdefault(row["name"], {})[row["column"]] = _mean_and_spread(row)
    order = max(lines.values(), key=len)  # an arm without some figures does not say where they stand
    units = dict.fromkeys(order, "") | {row["column"]: row["unit"] for row in rows}
    columns = [f"{column} ({unit})" if unit and unit != column else column for column, unit in units.items()]
    return columns, [[name, *(cells.get(column, "-") for column in units)] for name, cells in lines.items()]


def paper_markdown(result: Mapping[str, Any]) -> str:
    """Return the same tables as Markdown, with the values of every seed and the notes."""
    lines = []
    for name, experiment in result["experiments"].items():
        lines += [f"### {name}", "", experiment["title"], ""]
        lines += [experiment["description"], ""] if experiment.get("description") else []
        plain, wide = _split_columns(experiment["rows"])
        if wide:
            columns, cells = _cross(wide)
            notes = {row["name"]: f"**{row['name']}**: {row['note']}" for row in wide if row["note"]}
            cells = [[notes.get(first, first), *rest] for first, *rest in cells]
            lines += [*_markdown_table(["", *columns], cells), ""]
        if plain:
            lines += [*_markdown_table(_MARKDOWN_HEAD, [_markdown_cells(row) for row in plain]), ""]
        if claims := experiment.get("claims"):
            lines += [claims_markdown(claims), "", claims_note(claims), ""]
    for name, reason in result.get("skipped", {}).items():
        lines += [f"### {name}", "", f"Skipped. {reason}", ""]
    return "\n".join(lines)


def claims_markdown(claims: Sequence[Mapping[str, Any]]) -> str:
    """Return the claims of a paper as a Markdown table, with their words.

    Args:
        claims: Claims as in the result of `limbeck.papers.Reproduction.run`.
    """
    return "\n".join(_markdown_table(_CLAIM_HEAD, [claim_cells(claim) for claim in claims]))


def _markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, without the columns that have no values."""
    head, lines = _drop_empty(head, lines)
    rule = "".join("---|" if name in _LEFT else "--:|" for name in head)
    return [
        f"| {' | '.join(head)} |".replace("|  |", "| |"),
        f"|{rule}",
        *(f"| {' | '.join(line)} |" for line in lines),
    ]


def _markdown_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of `_paper_cells`, with the indent of the label, and the values by seed."""
    label, paper, ours, aim, note = _paper_cells(row)
    seeds = ", ".join(_paper_number(value, row["unit"]) for value in row["ours"]["values"])
    indent = "&nbsp;&nbsp;" * ((len(label) - len(label.lstrip())) // 2)
    return f"{indent}{label.strip()}", paper, ours, seeds, aim, note


def claims_note(claims: Sequence[Mapping[str, Any]]) -> str:
    """Explain the words and signs of claims in one line, and what makes a wide interval narrow."""
    note = (
        "shown: all of the interval is where the claim says; opposite: all of it is elsewhere; not shown: neither. "
        "A + is the claimed direction."
    )
    wide = [claim["seeds"] for claim in claims if claim["word"] == "not shown" and claim["seeds"] <= _FEW_SEEDS]
    if not wide:
        return note
    seeds = f"{min(wide)} seed{'s' if min(wide) > 1 else ''}"
    why = "gives no interval" if min(wide) == 1 else "give very wide intervals"
    return f"{note} {seeds} {why}: more seeds narrow them (--seeds 5)."


def claim_cells(claim: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    """Format a claim: its sentence, the number of the paper, ours, the interval, and the word."""
    unit, (least, most) = claim["unit"], claim["bounds"]
    sentence = claim["claim"]
    if most is None and least > 0:
        sentence += f" (by more than {_signed(least, unit)})"
    paper = "-" if claim.get("paper") is None else _signed(claim["paper"], unit)
    low, high = claim["low"], claim["high"]
    interval = "one seed" if low is None else f"{_signed(low, unit)} to {_signed(high, unit)}"
    ours = f"{_signed(claim['mean'], unit)} {unit}".rstrip()
    if claim.get("lower_is_better"):  # tables of earlier versions do not say it
        ours += " (lower: better)" if claim["mean"] > 0 else " (higher: worse)" if claim["mean"] < 0 else ""
    return sentence, paper, ours, interval, claim["word"]


def _signed(value: float, unit: str) -> str:
    digits = {"errors": 1, "points": 2, "correlation": 2, "s": 1}.get(unit, 3)
    return f"{value:+,.{digits}f}"


def _mean_and_spread(row: Mapping[str, Any]) -> str:
    """The mean, and with several values their standard deviation."""
    values, unit = row["ours"]["values"], row["unit"]
    spread = f" ± {_paper_number(statistics.stdev(values), unit)}" if len(values) > 1 else ""
    return _paper_number(row["ours"]["mean"], unit) + spread


def _paper_cells(row: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    unit = row["unit"]
    paper = "-" if row["paper"] is None else _paper_number(row["paper"], unit)
    words = [] if row["met"] is None else ["met" if row["met"] else "missed"]
    words += [row["note"]] if row["note"] else []
    return row["name"], paper, f"{_mean_and_spread(row)} {unit}".rstrip(), _aim(row), "; ".join(words)


def _aim(row: Mapping[str, Any]) -> str:
    if row["aim"] is None:
        return ""
    return f"{'≤' if row['lower_is_better'] else '≥'} {_paper_number(row['aim'], row['unit'])}"


def _paper_number(value: float | int, unit: str) -> str:
    """Format a number with the digits of its unit."""
    digits = {"errors": 0 if float(value).is_integer() else 1, "%": 1, "points": 2, "steps": 0, "s": 1}.get(unit, 3)
    return f"{value:,.{digits}f}"
