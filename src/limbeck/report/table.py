"""How does a result look in a terminal?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def arms_table(result: Mapping[str, Any]) -> Table:
    """A row for each arm: accuracy, NLL, agreement with the teacher, and what the model costs.

    Args:
        result: What `limbeck.compare.run_job` returns.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, unit in _COLUMNS:
        table.add_column(f"{name}\n{unit}" if unit else name, justify="left" if name == "arm" else "right")
    for name, arm in result["arms"].items():
        style = "bold" if name == "distilled" else None
        table.add_row(name, *_cells(arm), style=style)
    return table


_COLUMNS = (
    ("arm", ""),
    ("accuracy", "%"),
    ("NLL", "nats"),
    ("agreement", "%"),
    ("parameters", ""),
    ("size", "MB"),
    ("time", "ms/example"),
)


def _cells(arm: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        _percent(arm["measures"]["accuracy"]),
        f"{arm['nll']:.3f}",
        f"{100 * arm['agreement']:.1f}",
        f"{arm['parameters']:,}",
        f"{arm['megabytes']:.3f}",
        f"{arm['milliseconds']:.4f}",
    )


def _percent(measure: Mapping[str, Any]) -> str:
    mean = f"{100 * measure['mean']:.2f}"
    return f"{mean} ± {100 * measure['std']:.2f}" if len(measure["values"]) > 1 else mean
