"""Tables of the arms of a result for the terminal."""

from __future__ import annotations

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
