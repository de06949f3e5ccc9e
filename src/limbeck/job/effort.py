"""What has an arm of its own, and for how many steps did each one learn?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def own_budgets(
    budgets: Mapping[str, Mapping[str, Any]], rows: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:  # fmt: skip
    """What each arm of a result has in place of the job's budget, in words; a shuffled teacher's is the first method's.

    Args:
        budgets: The job's `budgets`, as a mapping.
        rows: The result's arms.

    Example:
        >>> own_budgets({"student alone": {"lr": 0.003, "epochs": 12}}, {"student alone": {"role": "control"}})
        {'student alone': 'epochs 12, lr 0.003'}
    """
    first = next((name for name, row in rows.items() if row.get("role") == "method"), None)
    found = {}
    for name in rows:
        own = budgets.get(str(first) if name == "shuffled teacher" else name) or {}
        said = [f"{key} {own[key]:.4g}" for key in ("epochs", "lr", "smoothing") if own.get(key) is not None]
        if said:
            found[name] = ", ".join(said)
    return found


def steps_said(rows: Mapping[str, Mapping[str, Any]]) -> str | None:
    """For how many optimiser steps the arms learnt: one number, or one for each arm; None where it was not kept.

    Example:
        >>> steps_said({"student alone": {"steps": 300}, "hinton": {"steps": 1200}})
        'student alone 300; hinton 1,200'
    """
    steps = {name: row["steps"] for name, row in rows.items() if isinstance(row.get("steps"), int)}
    if not steps:
        return None
    if len(set(steps.values())) == 1:
        return f"{next(iter(steps.values())):,} for every arm"
    return "; ".join(f"{name} {count:,}" for name, count in steps.items())
