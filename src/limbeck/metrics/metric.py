"""`Metric`: a function of predictions that returns a sum and a count, with its unit and direction."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

from torch import Tensor

from limbeck.metrics.validation import Needed, valid_rows


class Metric(NamedTuple):
    """A sum over rows and the number of rows, so that a mean is taken once over all data.

    Attributes:
        total: The sum, in the unit of the metric.
        count: The number of rows that count.
    """

    total: float
    count: int  # type: ignore[assignment] # the field's name for it; tuple.count is of no use here

    @property
    def value(self) -> float:
        """The mean; NaN if no row counts."""
        return self.total / self.count if self.count else float("nan")

    def __repr__(self) -> str:
        return f"Metric({self.value:.4g}, over {self.count:,} rows)"


@runtime_checkable
class MetricFunction(Protocol):
    """A function of predictions with its unit and direction (None: neither is better)."""

    __name__: str
    unit: str
    higher_is_better: bool | None
    requires: tuple[Needed, ...]

    def __call__(self, predictions: Any) -> Metric:
        """Compute the metric."""


def metric(
    *, unit: str, higher_is_better: bool | None, requires: tuple[Needed, ...]
) -> Callable[[Callable[[Any], Metric]], MetricFunction]:
    """Declare a metric: its unit, its direction, and what it needs besides the student's outputs.

    The decorated function gets only rows that count: rows with the label -100 are left out of every metric. It is
    called only if everything that it needs is there and valid.

    Args:
        unit: ``fraction``, ``nats``, ...
        higher_is_better: Whether larger is better; None for descriptive metrics such as the entropy.
        requires: ``labels``, ``teacher`` or both; for regression ``targets``, ``teacher``, ``variance``.

    Returns:
        A decorator. The decorated function raises a `LimbeckError` if something is missing or invalid.
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
    """Make a metric of the number of true values."""
    return Metric(float(right.sum()), right.numel())


def summed(values: Tensor) -> Metric:
    """Make a metric of the sum of values."""
    return Metric(float(values.sum()), values.numel())


def mean_of_all(value: float, rows: int) -> Metric:
    """Make a metric whose value is not a sum over rows: the total is `value` times the count."""
    return Metric(value * rows if rows else 0.0, rows)
