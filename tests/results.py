"""Helpers: results for the tests of reports."""

from __future__ import annotations

import statistics
from typing import Any


def arm(
    values: list[float | None],
    *,
    nll: float | None = 0.214,
    agreement: float | None = 0.966,
    parameters: int = 666,
    megabytes: float = 0.002664,
    milliseconds: float = 0.0029,
) -> dict[str, Any]:
    """One arm's row, as `limbeck.compare.run_job` gives it."""
    known = [value for value in values if value is not None]
    whole = known == values
    accuracy = {
        "mean": statistics.fmean(known) if whole else None,
        "std": (statistics.stdev(known) if len(known) > 1 else 0.0) if whole else None,
        "values": values,
    }
    return {
        "accuracy": accuracy, "nll": nll, "agreement": agreement, "measures": {"accuracy": accuracy},
        "parameters": parameters, "megabytes": megabytes, "milliseconds": milliseconds,
    }  # fmt: skip


def result(arms: dict[str, Any] | None = None, *, data: str = "digits", sentence: str = "It helped.") -> dict[str, Any]:
    """A whole result."""
    usual = {
        "teacher": arm([0.97], nll=0.128, agreement=1.0, parameters=12180, megabytes=0.04872, milliseconds=0.0157),
        "student alone": arm([0.928, 0.942], nll=0.289, agreement=0.946),
        "label smoothing": arm([0.94, 0.942], nll=0.328, agreement=0.944),
        "distilled": arm([0.952, 0.950]),
    }
    return {"arms": arms or usual, "data": {"name": data}, "verdict": {"sentence": sentence, "against": {}}}
