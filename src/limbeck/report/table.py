"""How does a result look in a terminal?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def arms_table(result: Mapping[str, Any]) -> Table:
    """A row for each arm: accuracy, test error, NLL, agreement with the teacher, and what the model costs.

    Args:
        result: What `limbeck.compare.run_job` returns.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, unit in _COLUMNS:
        table.add_column(f"{name}\n{unit}" if unit else name, justify="left" if name == "arm" else "right")
    for name, arm in result["arms"].items():
        style = "bold" if name == result["verdict"].get("arm", "distilled") else None
        table.add_row(name, *_cells(arm), style=style)
    return table


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
    return (
        _percent(arm["measures"]["accuracy"]),
        _error(arm["measures"]["accuracy"]["mean"]),
        _fixed(arm["nll"], 3),
        _fixed(arm["agreement"], 1, scale=100.0),
        _counted(arm["parameters"]),
        _fixed(arm["megabytes"], 3 if arm["megabytes"] < 10 else 1 if arm["megabytes"] < 1000 else 0),
        _fixed(arm["milliseconds"], 4 if arm["milliseconds"] < 1 else 2 if arm["milliseconds"] < 100 else 0),
    )


def _counted(parameters: int) -> str:
    return f"{parameters:,}" if parameters < 10_000_000 else f"{parameters / 1e6:,.{1 if parameters < 1e9 else 0}f} M"


def _percent(measure: Mapping[str, Any]) -> str:
    mean = _fixed(measure["mean"], 2, scale=100.0)
    return f"{mean} ± {_fixed(measure['std'], 2, scale=100.0)}" if len(measure["values"]) > 1 else mean


def _error(accuracy: float | None) -> str:
    return _fixed(None if accuracy is None else 1.0 - accuracy, 2, scale=100.0)


def _fixed(value: float | None, digits: int, *, scale: float = 1.0) -> str:
    """A number with so many digits; a dash where there is none (infinite, or nothing to measure it on)."""
    return "-" if value is None else f"{scale * value:,.{digits}f}"
