"""The table of a result in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from limbeck.job import list_custom_metrics, read_size_notes
from limbeck.report.arms import MEMBER, SeedStat, figure

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
else:
    Console = Table = Any  # imported where it is drawn; so type hints can be read without


def arms_table(result: Mapping[str, Any]) -> Table:
    """A row for each arm: accuracy, test error, NLL, agreement with the teacher, own metrics, and what the model costs.

    Args:
        result: What `limbeck.compare.run_job` returns.
    """
    own = list_custom_metrics(result)
    columns = [*_COLUMNS[:5], *((name, "") for name in own), *_COLUMNS[5:]]
    return _table(result, columns, lambda arm: [*_cells(arm)[:4], *_own(arm, own), *_cells(arm)[4:]])


def arms_tables(result: Mapping[str, Any], console: Console) -> list[Table]:
    """`arms_table`; where own metrics make it wider than the console, they stand in tables of their own below.

    Args:
        result: What `limbeck.compare.run_job` returns.
        console: Where it is to be printed.
    """
    whole, own = arms_table(result), list_custom_metrics(result)
    if not own or _fits(whole, console):
        return [whole]
    tables, row = [_table(result, _COLUMNS, _cells)], list[str]()
    for name in own:
        if row and not _fits(_own_table(result, [*row, name]), console):
            tables.append(_own_table(result, row))
            row = []
        row.append(name)
    return [*tables, _own_table(result, row)]


def _own_table(result: Mapping[str, Any], own: Sequence[str]) -> Table:
    return _table(result, [_COLUMNS[0], *((name, "") for name in own)], lambda arm: _own(arm, own))


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
        table.add_row(Text(name), *cells(arm), style=style)  # a bracket in a name is no markup
    return table


def _fits(table: Table, console: Console) -> bool:
    from rich.measure import Measurement

    wide = console.options.update(max_width=10_000)
    return Measurement.get(console, wide, table).maximum <= console.width


def over_seeds(result: Mapping[str, Any]) -> str:
    """The line below the table: what stands after a ±, the accuracy that costs nothing, sizes that nobody counted."""
    counts = {name: len(_accuracy(arm).values) for name, arm in result["arms"].items()}
    members, seeds = counts.pop(MEMBER, 0), max(counts.values(), default=0)
    said = [f"± is the standard deviation over {seeds} seeds"] if seeds > 1 else []
    said += [f"± of {MEMBER} is over the {members} members"] if members > 1 else []
    most = most_frequent_of(result)
    said += [f"always answering the most frequent class: {100 * most:.2f} % accuracy"] if most is not None else []
    said += read_size_notes(result)
    return "; ".join(said) + ".\n" if said else ""


def most_frequent_of(result: Mapping[str, Any]) -> float | None:
    """What always answering the most frequent class gets right of the test examples; None where nobody counted."""
    found = _mapping(_mapping(result.get("data")).get("most_frequent")).get("test")
    return float(found) if isinstance(found, (int, float)) else None


_COLUMNS = (
    ("arm", ""),
    ("accuracy", "%"),
    ("error", "%"),
    ("NLL", "nats"),
    ("agrees", "%"),
    ("params", ""),
    ("size", "MB"),
    ("ms per", "example"),
)


def _cells(arm: Mapping[str, Any]) -> tuple[str, ...]:
    accuracy = _accuracy(arm)
    megabytes, milliseconds = _number(arm.get("megabytes")), _number(arm.get("milliseconds"))
    return (
        _percent(accuracy),
        _error(accuracy.mean),
        _fixed(_number(arm.get("nll")), 3),
        _fixed(_number(arm.get("agreement")), 1, scale=100.0),
        _counted(_number(arm.get("parameters"))),
        _fixed(megabytes, 0 if megabytes is None or megabytes >= 1000 else 3 if megabytes < 10 else 1),
        _fixed(milliseconds, 0 if milliseconds is None or milliseconds >= 100 else 4 if milliseconds < 1 else 2),
    )


def _own(arm: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    found = (figure(_mapping(arm.get("measures")).get(name)) for name in names)
    return [_fixed(one.mean, 4) + (f" ± {_fixed(one.std, 4)}" if one.std is not None else "") for one in found]


def _accuracy(arm: Mapping[str, Any]) -> SeedStat:
    return figure(_mapping(arm.get("measures")).get("accuracy") or arm.get("accuracy"))


def _number(value: Any) -> float | None:
    return figure(value).mean


def _counted(parameters: float | None) -> str:
    if parameters is None or parameters < 10_000_000:
        return _fixed(parameters, 0)
    return f"{parameters / 1e6:,.{1 if parameters < 1e9 else 0}f} M"


def _percent(accuracy: SeedStat) -> str:
    mean = _fixed(accuracy.mean, 2, scale=100.0)
    known = accuracy.mean is not None and accuracy.std is not None
    return f"{mean} ± {_fixed(accuracy.std, 2, scale=100.0)}" if known else mean


def _error(accuracy: float | None) -> str:
    return _fixed(None if accuracy is None else 1.0 - accuracy, 2, scale=100.0)


def _fixed(value: float | None, digits: int, *, scale: float = 1.0) -> str:
    """A number with so many digits; a dash where there is none (infinite, or nothing to measure it on)."""
    return "-" if value is None else f"{scale * value:,.{digits}f}"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
