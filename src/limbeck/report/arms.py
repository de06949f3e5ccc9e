"""What is known of one arm."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

from limbeck.metrics.distributions import t_ppf

CONTROLS = ("student alone", "label smoothing", "shuffled teacher")
"""The arms that need no teacher, or one that knows nothing of the example."""


MEMBER = "one member"
"""The row of a teacher of several: its values are one for a member instead of one for a seed."""


class SeedStat(NamedTuple):
    """A number over the seeds: the values that are numbers, their mean, and how far they lie apart.

    What stands after a ± is always `std`.

    Attributes:
        values: One for each seed.
        mean: None where a value is missing or no number.
        std: The standard deviation over the seeds (n - 1); None with a single seed.
    """

    values: tuple[float, ...]
    mean: float | None
    std: float | None


class ArmRow(NamedTuple):
    """One competitor.

    Attributes:
        name: What it is called.
        role: ``teacher``, ``member``, ``control`` or ``method``.
        style: Its color and shape in every figure.
        accuracy: On the test data.
        development: On the development data; without values where it was not kept.
        row: All that the result says of it.
    """

    name: str
    role: str
    style: int
    accuracy: SeedStat
    development: SeedStat
    row: Mapping[str, Any]

    def measure(self, name: str) -> SeedStat:
        """A measure on the test data."""
        return figure(_mapping(self.row.get("measures")).get(name))

    def number(self, key: str) -> float | None:
        """A cost: ``parameters``, ``megabytes``, ``milliseconds``, ``seconds``."""
        value = self.row.get(key)
        return float(value) if _is_number(value) else None


def arms_of(rows: Mapping[str, Mapping[str, Any]], *, judged: Any = None) -> dict[str, ArmRow]:
    """Every competitor of a result; the one that the verdict is about has a color that no other has."""
    found: dict[str, ArmRow] = {}
    methods = 0
    for name, row in rows.items():
        role = _role(name, row)
        style = {"teacher": 1, "member": 1, "control": _CONTROL_STYLES.get(name, 7)}.get(role)
        if style is None and (name == judged or (judged not in rows and not methods)):
            style = _JUDGED
        if style is None:
            style = _METHOD_STYLES[methods % len(_METHOD_STYLES)]
        methods += role == "method" and style != _JUDGED
        accuracy = figure(row.get("accuracy") or _mapping(row.get("measures")).get("accuracy"))
        found[name] = ArmRow(name, role, style, accuracy, figure(row.get("development")), row)
    return found


_CONTROL_STYLES = {"student alone": 2, "label smoothing": 3, "shuffled teacher": 4}
_METHOD_STYLES = (5, 6, 7, 8, 9, 10, 11)
_JUDGED = 0


def figure(found: Any) -> SeedStat:
    """What a result says of a number over the seeds: a mapping with ``values``, or a plain number."""
    if _is_number(found):
        number = float(found)
        return SeedStat((number,), number, None)
    given = _mapping(found).get("values")
    given = given if isinstance(given, Sequence) and not isinstance(given, str) else []
    values = tuple(float(value) for value in given if _is_number(value))
    if not values or len(values) < len(given):
        return SeedStat(values, None, None)
    return SeedStat(values, statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def half_width(values: Sequence[float]) -> float | None:
    r"""Half of Student's 95 % interval of a mean, :math:`t_{n-1} s / \sqrt n`; None for fewer than two values."""
    if len(values) < 2:
        return None
    return t_ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def _role(name: str, row: Mapping[str, Any]) -> str:
    role = row.get("role")
    if isinstance(role, str):
        return role
    if name in CONTROLS:
        return "control"
    return {"teacher": "teacher", "one member": "member"}.get(name, "method")


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
