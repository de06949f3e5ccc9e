"""What is a measure: a function of predictions that gives a sum and a count, and says its unit?"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

from torch import Tensor

from limbeck.measure.rows import Needed, counted


class Measure(NamedTuple):
    """A sum over rows and how many there are, so that means can be taken once, over everything.

    Attributes:
        total: The sum, in the measure's unit.
        count: Rows that count.
    """

    total: float
    count: int  # type: ignore[assignment] # the field's name for it; tuple.count is of no use here

    @property
    def value(self) -> float:
        """The mean; nan where no row counts."""
        return self.total / self.count if self.count else float("nan")

    def __repr__(self) -> str:
        return f"Measure({self.value:.4g}, over {self.count:,} rows)"


@runtime_checkable
class MeasureFunction(Protocol):
    """A function of predictions that says its unit and which way is better (None: neither is)."""

    __name__: str
    unit: str
    higher_is_better: bool | None
    needs: tuple[Needed, ...]

    def __call__(self, predictions: Any) -> Measure:
        """The measure of these predictions."""


def measure(
    *, unit: str, higher_is_better: bool | None, needs: tuple[Needed, ...]
) -> Callable[[Callable[[Any], Measure]], MeasureFunction]:
    """Declare a measure: its unit, which way is better, and what it needs beside the student's answers.

    The decorated function sees only rows that count: where labels are known at all, rows labelled -100 are left out of
    every measure. It is called only if what it needs is there and fits.

    Args:
        unit: ``fraction``, ``nats``, ...
        higher_is_better: Whether more is better; None for what only describes, such as the entropy.
        needs: ``labels``, ``teacher`` or both; for regression ``targets``, ``teacher``, ``variance``.

    Returns:
        A decorator; the decorated function raises a `LimbeckError` that says what is lacking or does not fit.
    """

    def decorate(function: Callable[[Any], Measure]) -> MeasureFunction:
        @functools.wraps(function)
        def measured(predictions: Any) -> Measure:
            return function(counted(predictions, cast(MeasureFunction, function).__name__, needs))

        found = cast(MeasureFunction, measured)
        found.unit, found.higher_is_better, found.needs = unit, higher_is_better, needs
        return found

    return decorate


def fraction(right: Tensor) -> Measure:
    """How many are true, of how many."""
    return Measure(float(right.sum()), right.numel())


def summed(values: Tensor) -> Measure:
    """The sum of these values, and how many they are."""
    return Measure(float(values.sum()), values.numel())


def mean_of_all(value: float, rows: int) -> Measure:
    """A figure of all rows together, which is no sum over them: its value is `value`, its count the rows."""
    return Measure(value * rows if rows else 0.0, rows)
