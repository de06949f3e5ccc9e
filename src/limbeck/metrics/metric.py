"""`Metric`: a function of predictions that returns a sum and a count, with its unit and direction."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

from torch import Tensor

from limbeck.metrics.validation import Needed, valid_rows


class Metric(NamedTuple):
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
        return f"Metric({self.value:.4g}, over {self.count:,} rows)"


@runtime_checkable
class MetricFunction(Protocol):
    """A function of predictions that says its unit and which way is better (None: neither is)."""

    __name__: str
    unit: str
    higher_is_better: bool | None
    requires: tuple[Needed, ...]

    def __call__(self, predictions: Any) -> Metric:
        """The measure of these predictions."""


def metric(
    *, unit: str, higher_is_better: bool | None, requires: tuple[Needed, ...]
) -> Callable[[Callable[[Any], Metric]], MetricFunction]:
    """Declare a measure: its unit, which way is better, and what it needs beside the student's answers.

    The decorated function sees only rows that count: where labels are known at all, rows labeled -100 are left out of
    every measure. It is called only if what it needs is there and fits.

    Args:
        unit: ``fraction``, ``nats``, ...
        higher_is_better: Whether more is better; None for what only describes, such as the entropy.
        requires: ``labels``, ``teacher`` or both; for regression ``targets``, ``teacher``, ``variance``.

    Returns:
        A decorator; the decorated function raises a `LimbeckError` that says what is lacking or does not fit.
    """

    def decorate(function: Callable[[Any], Metric]) -> MetricFunction:
        @functools.wraps(function)
        def measured(predictions: Any) -> Metric:
            return function(valid_rows(predictions, cast(MetricFunction, function).__name__, requires))

        declared = cast(MetricFunction, measured)
        declared.unit, declared.higher_is_better, declared.requires = unit, higher_is_better, requires
        return declared

    return decorate


def fraction(right: Tensor) -> Metric:
    """How many are true, of how many."""
    return Metric(float(right.sum()), right.numel())


def summed(values: Tensor) -> Metric:
    """The sum of these values, and how many they are."""
    return Metric(float(values.sum()), values.numel())


def mean_of_all(value: float, rows: int) -> Metric:
    """A figure of all rows together, which is no sum over them: its value is `value`, its count the rows."""
    return Metric(value * rows if rows else 0.0, rows)
