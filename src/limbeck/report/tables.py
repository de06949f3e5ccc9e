"""Tables for the terminal and for Markdown: the arms of a result, and the numbers of a paper next to limbeck's."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from limbeck.job import list_custom_metrics, read_size_notes
from limbeck.job.result import read_task
from limbeck.report.arms import MEMBER, SeedStat, as_mapping, mean_std_text, read_stat
from limbeck.tasks import Task

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
else:
    Console = Table = Any  # rich is imported only when a table is drawn; type hints still resolve

# --- arms -----------------------------------------------------------------------------------------------------------


def arms_table(result: Mapping[str, Any]) -> Table:
    """Make a table of all arms: accuracy, test error, NLL, agreement with the teacher, user metrics, and costs.

    Args:
        result: The result of `limbeck.compare.run_job`.
    """
    own = list_custom_metrics(result)
    task = read_task(result)
    scores, costs = _score_columns(task), _COSTS
    columns = [("arm", ""), *((title, unit) for title, unit, _ in scores), *((name, "") for name in own), *costs]
    return _table(result, columns, lambda arm: [*_scores(arm, task), *_own(arm, own), *_costs(arm)])


def arms_tables(result: Mapping[str, Any], console: Console) -> list[Table]:
    """Return `arms_table`, or several tables if user metrics make it wider than the console.

    Args:
        result: The result of `limbeck.compare.run_job`.
        console: The console that it is printed to.
    """
    table, own = arms_table(result), list_custom_metrics(result)
    if not own or _fits(table, console):
        return [table]
    task = read_task(result)
    columns = [("arm", ""), *((title, unit) for title, unit, _ in _score_columns(task)), *_COSTS]
    tables, row = [_table(result, columns, lambda arm: [*_scores(arm, task), *_costs(arm)])], list[str]()
    for name in own:
        if row and not _fits(_own_table(result, [*row, name]), console):
            tables.append(_own_table(result, row))
            row = []
        row.append(name)
    return [*tables, _own_table(result, row)]


def _own_table(result: Mapping[str, Any], own: Sequence[str]) -> Table:
    return _table(result, [("arm", ""), *((name, "") for name in own)], lambda arm: _own(arm, own))


def _table(
    result: Mapping[str, Any], columns: Sequence[tuple[str, str]], cells: Callable[[Mapping[str, Any]], Sequence[str]]
) -> Table:
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(box=None, pad_edge=False, header_style="bold")
    for name, unit in columns:
        table.add_column(Text(f"{name}\n{unit}" if unit else name), justify="left" if name == "arm" else "right")
    for name, arm in result["arms"].items():
        style = "bold" if name == result["verdict"].get("arm", "distilled") else None
        table.add_row(Text(name), *cells(arm), style=style)  # Text: a bracket in a name is not markup
    return table


def _fits(table: Table, console: Console) -> bool:
    from rich.measure import Measurement

    wide = console.options.update(max_width=10_000)
    return Measurement.get(console, wide, table).maximum <= console.width


def table_notes(result: Mapping[str, Any]) -> str:
    """Return the line below the table: the meaning of ±, the majority-class accuracy, and unknown sizes."""
    metric = read_task(result).primary.name
    counts = {name: len(_stat(arm, metric).values) for name, arm in result["arms"].items()}
    members, seeds = counts.pop(MEMBER, 0), max(counts.values(), default=0)
    notes = [f"± is the standard deviation over {seeds} seeds"] if seeds > 1 else []
    notes += [f"± of {MEMBER} is over the {members} members"] if members > 1 else []
    most = majority_accuracy(result)
    notes += [f"always predicting the most frequent class: {100 * most:.2f} % accuracy"] if most is not None else []
    notes += read_size_notes(result)
    return "; ".join(notes) + ".\n" if notes else ""


def majority_accuracy(result: Mapping[str, Any]) -> float | None:
    """Return the test accuracy of always predicting the most frequent class; None if it is not known."""
    share = as_mapping(as_mapping(result.get("data")).get("most_frequent")).get("test")
    return float(share) if isinstance(share, (int, float)) else None


_SCORES: dict[str, tuple[tuple[str, str, Callable[[Mapping[str, Any]], str]], ...]] = {
    "classification": (
        ("accuracy", "%", lambda arm: mean_std_text(_stat(arm, "accuracy"), 2, 100)),
        ("error", "%", lambda arm: _error(_stat(arm, "accuracy").mean)),
        ("NLL", "nats", lambda arm: _fixed(_number(arm.get("nll")), 3)),
        ("agrees", "%", lambda arm: _fixed(_number(arm.get("agreement")), 1, scale=100.0)),
    ),
    "multi_label": (
        ("micro F1", "%", lambda arm: mean_std_text(_stat(arm, "f1_micro"), 2, 100)),
        ("macro F1", "%", lambda arm: mean_std_text(_stat(arm, "f1_macro"), 2, 100)),
        ("mAP", "%", lambda arm: mean_std_text(_stat(arm, "mean_average_precision"), 2, 100)),
        ("agrees", "%", lambda arm: _fixed(_number(arm.get("answer_agreement")), 1, scale=100.0)),
    ),
    "regression": (
        ("R²", "", lambda arm: mean_std_text(_stat(arm, "r2"))),
        ("RMSE", "", lambda arm: mean_std_text(_stat(arm, "rmse"))),
        ("MAE", "", lambda arm: mean_std_text(_stat(arm, "mae"))),
    ),
    "segmentation": (
        ("mean IoU", "%", lambda arm: mean_std_text(_stat(arm, "miou"), 2, 100)),
        ("pixel acc.", "%", lambda arm: mean_std_text(_stat(arm, "pixel_accuracy"), 2, 100)),
        ("agrees", "%", lambda arm: _fixed(_number(arm.get("pixel_agreement")), 1, scale=100.0)),
    ),
    "language_modeling": (
        ("nats", "per token", lambda arm: mean_std_text(_stat(arm, "nll"))),
        ("perplexity", "", lambda arm: mean_std_text(_stat(arm, "perplexity"))),
        ("bits", "per byte", lambda arm: mean_std_text(_stat(arm, "bits_per_byte"))),
        ("KL to", "teacher", lambda arm: _fixed(_number(arm.get("kl_to_teacher")), 3)),
        ("agrees", "%", lambda arm: _fixed(_stat(arm, "agreement").mean, 1, scale=100.0)),
    ),
}
"""Columns of each task: title, unit, and the cell of an arm."""
_SMALL = 0.001
"""Megabytes; a smaller model is shown in kB."""
_COSTS = (("params", ""), ("size", "MB"), ("ms per", "example"))


def _score_columns(task: Task) -> tuple[tuple[str, str, Callable[[Mapping[str, Any]], str]], ...]:
    name, unit = task.primary.name, "%" if task.primary.percent else ""
    own = (task.primary.title, unit, lambda arm: mean_std_text(_stat(arm, name)))
    return _SCORES.get(task.name, (own,))


def _scores(arm: Mapping[str, Any], task: Task) -> list[str]:
    return [cell(arm) for _, _, cell in _score_columns(task)]


def _costs(arm: Mapping[str, Any]) -> tuple[str, ...]:
    megabytes, milliseconds = _number(arm.get("megabytes")), _number(arm.get("milliseconds"))
    return (
        _parameter_count(_number(arm.get("parameters"))),
        f"{1000 * megabytes:.3g} kB"
        if megabytes is not None and megabytes < _SMALL
        else _fixed(megabytes, 0 if megabytes is None or megabytes >= 1000 else 3 if megabytes < 10 else 1),
        _fixed(milliseconds, 0 if milliseconds is None or milliseconds >= 100 else 4 if milliseconds < 1 else 2),
    )


def _own(arm: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [mean_std_text(_stat(arm, name)) for name in names]


def _stat(arm: Mapping[str, Any], name: str) -> SeedStat:
    return read_stat(as_mapping(arm.get("measures")).get(name) or arm.get(name))


def _number(value: Any) -> float | None:
    return read_stat(value).mean


def _parameter_count(parameters: float | None) -> str:
    if parameters is None or parameters < 10_000_000:
        return _fixed(parameters, 0)
    return f"{parameters / 1e6:,.{1 if parameters < 1e9 else 0}f} M"


def _error(accuracy: float | None) -> str:
    return _fixed(None if accuracy is None else 1.0 - accuracy, 2, scale=100.0)


def _fixed(value: float | None, digits: int, *, scale: float = 1.0) -> str:
    """Format a number; a dash if it is infinite or was not measured."""
    return "-" if value is None else f"{scale * value:,.{digits}f}"


# --- a paper's numbers beside ours ----------------------------------------------------------------------------------

_HEAD = ("experiment", "paper", "ours", "aim", "")
_LEFT = ("experiment", "claim", "word", "")
_FEW_SEEDS = 3
"""Up to so many seeds, a t-interval is several times as wide as one of five."""
_CLAIM_HEAD = ("claim", "paper", "ours", "95 % interval", "word")


def paper_tables(result: Mapping[str, Any]) -> list[Table]:
    """Make tables with the paper's numbers next to limbeck's, and one with the word of each claim.

    An experiment with columns of its own has a table of its own.

    Args:
        result: The result of `limbeck.papers.Reproduction.run`.
    """
    from rich.table import Table as RichTable
    from rich.text import Text

    def start(names: Sequence[str]) -> Table:
        table = RichTable(box=None, pad_edge=False, header_style="bold")
        for name in names:
            table.add_column(name, justify="left" if name in _LEFT else "right", overflow="fold")
        return table

    table, tables = start(_HEAD), []
    for name, experiment in result["experiments"].items():
        title = Text(f"{name}: {experiment['title']}", style="bold")
        plain, wide = _split_columns(experiment["rows"])
        if wide:
            columns, cells = _cross(wide)
            tables.append(start(["", *columns]))
            tables[-1].title, tables[-1].title_justify = title, "left"
            for line in cells:
                tables[-1].add_row(*(Text(cell) for cell in line))
        if plain:
            table.add_row(title)
        for row in plain:
            table.add_row(*(Text(cell) for cell in _paper_cells(row)))
    if table.rows:
        tables.append(table)
    if claims := [claim for experiment in result["experiments"].values() for claim in experiment.get("claims", ())]:
        tables.append(start(_CLAIM_HEAD))
        tables[-1].title, tables[-1].title_justify = Text(result.get("claim", "Claims"), style="bold"), "left"
        for claim in claims:
            tables[-1].add_row(*(Text(cell) for cell in claim_cells(claim)))
        tables[-1].caption, tables[-1].caption_justify = claims_note(claims), "left"
    return tables


def _split_columns(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """The rows that stand alone, and those that are cells of a table with columns of its own."""
    wide = [row for row in rows if row.get("column")]
    return [row for row in rows if not row.get("column")], wide


def _cross(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The names of the columns with their units, and the lines of a table of rows with columns."""
    units = {row["column"]: row["unit"] for row in rows}
    lines: dict[str, dict[str, str]] = {}
    for row in rows:
        lines.setdefault(row["name"], {})[row["column"]] = _mean_and_spread(row)
    columns = [f"{column} ({unit})" if unit and unit != column else column for column, unit in units.items()]
    return columns, [[name, *(cells.get(column, "") for column in units)] for name, cells in lines.items()]


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
            lines += [f"| | {' | '.join(columns)} |", "|---|" + "--:|" * len(columns)]
            lines += [f"| {' | '.join(line)} |" for line in cells] + [""]
        if plain:
            lines += ["| | paper | ours | by seed | aim | |", "|---|--:|--:|---|--:|---|"]
        for row in plain:
            label, paper, ours, aim, note = _paper_cells(row)
            seeds = ", ".join(_paper_number(value, row["unit"]) for value in row["ours"]["values"])
            indent = "&nbsp;&nbsp;" * ((len(label) - len(label.lstrip())) // 2)
            lines.append(f"| {indent}{label.strip()} | {paper} | {ours} | {seeds} | {aim} | {note} |")
        if plain:
            lines.append("")
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
    lines = [f"| {' | '.join(_CLAIM_HEAD)} |", "|---|--:|--:|--:|---|"]
    return "\n".join(lines + [f"| {' | '.join(claim_cells(claim))} |" for claim in claims])


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
    ours = f"{_signed(claim['mean'], unit)} {unit}"
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
    return row["name"], paper, f"{_mean_and_spread(row)} {unit}", _aim(row), "; ".join(words)


def _aim(row: Mapping[str, Any]) -> str:
    if row["aim"] is None:
        return ""
    return f"{'≤' if row['lower_is_better'] else '≥'} {_paper_number(row['aim'], row['unit'])}"


def _paper_number(value: float | int, unit: str) -> str:
    """Format a number with the digits of its unit."""
    digits = {"errors": 0 if float(value).is_integer() else 1, "%": 1, "points": 2, "steps": 0, "s": 1}.get(unit, 3)
    return f"{value:,.{digits}f}"
