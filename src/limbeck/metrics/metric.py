"""`Metric` and `metric`: metrics with unit and direction, the checks of what they need, and scores of examples."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from functools import singledispatch
from typing import Any, Literal, NamedTuple, Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.batch import IGNORED
from limbeck.errors import LimbeckError
from limbeck.metrics.predictions import Predictions


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
    """Declare a metric: its unit, its direction, and the inputs that it needs in addition to the student's outputs.

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


def linear_scores(
    value: float, numerators: Float[np.ndarray, "n parts"], denominators: Float[np.ndarray, "n parts"]
) -> Float[np.ndarray, " n"]:
    r"""Compute a score for each example of a mean of ratios, :math:`\frac1C \sum_c \sum_i a_{ic} / \sum_i b_{ic}`.

    With :math:`\theta_c` the ratio of part c and :math:`\bar b_c` the mean denominator, the score of example i is
    :math:`\theta + \frac1C \sum_c (a_{ic} - \theta_c b_{ic}) / \bar b_c`. The mean of the scores is the value itself,
    and their variance is that of the delta method. Parts with a denominator of 0 are left out.

    Example:
        >>> linear_scores(0.5, np.array([[1.0], [0.0]]), np.array([[1.0], [1.0]])).tolist()
        [1.0, 0.0]

    Source: Cochran, Sampling Techniques, 3rd edition, 1977, section 6.3 (ratio estimates).
    """
    total = denominators.sum(0)
    there = total > 0
    if not there.any():
        return np.full(len(numerators), value)
    a, b, sums = numerators[:, there], denominators[:, there], total[there]
    ratios = a.sum(0) / sums
    influence = ((a - ratios * b) / (sums / len(a))).mean(1)
    return np.asarray(value + influence)


Needed = Literal["labels", "teacher", "targets", "variance", "log_loss", "bytes"]


@singledispatch
def valid_rows(predictions: Any, name: str, requires: tuple[Needed, ...]) -> Any:
    """Check what the metric `name` needs, and select the rows that count; no copy is made if all count.

    Raises:
        LimbeckError: If something is missing or invalid.
    """
    raise LimbeckError(
        f"The metric {name!r} is a function of Predictions(student, teacher, labels), of Estimates (regression) or of "
        f"MultiLabelPredictions; got a {type(predictions).__name__}."
    )


@valid_rows.register
def _(predictions: Predictions, name: str, requires: tuple[Needed, ...]) -> Predictions:
    student, teacher, labels = predictions
    require_fields(predictions, name, requires)
    if "teacher" in requires and teacher is not None and teacher.shape != student.shape:
        check_rows(name, len(student), teacher=teacher)
        raise LimbeckError(
            f"The metric {name!r} needs the same classes: the student has {student.shape[1]}, "
            f"the teacher {teacher.shape[1]}."
        )
    if "labels" in requires and labels is not None:
        check_rows(name, len(student), labels=labels)
        wrong = labels[((labels < 0) & (labels != IGNORED)) | (labels >= student.shape[1])]
        if len(wrong):
            raise LimbeckError(
                f"The metric {name!r} needs labels from 0 to {student.shape[1] - 1} (or {IGNORED} for none); "
                f"got {int(wrong[0])}."
            )
    return labeled_rows(predictions)


def labeled_rows(predictions: Predictions) -> Predictions:
    """Select the rows that have a label, if there are labels. If all rows have one, the tensors are not copied."""
    student, teacher, labels = predictions
    if labels is None or bool((counts := labels != IGNORED).all()):
        return predictions
    return Predictions(student[counts], None if teacher is None else teacher[counts], labels[counts])


def require_fields(predictions: Any, name: str, requires: Iterable[Needed]) -> None:
    """Check that predictions have what a metric needs.

    Raises:
        LimbeckError: If something is missing.
    """
    for needed in requires:
        # Kinds of predictions have different fields; a metric of another kind needs one that is not there.
        if getattr(predictions, needed, None) is None:
            raise LimbeckError(f"The metric {name!r} needs {needed}, and these predictions have none.")


def check_rows(name: str, rows: int, **parts: Tensor) -> None:
    """Check that all parts have as many rows as the student's logits.

    Raises:
        LimbeckError: If a part has another number of rows.
    """
    for part, tensor in parts.items():
        if len(tensor) != rows:
            raise LimbeckError(f"The metric {name!r}: {rows} rows of the student's, and {len(tensor)} of {part}.")


def labels_of(predictions: Predictions) -> Int[Tensor, " n"]:
    """The labels, which are known to be there."""
    return cast(Tensor, predictions.labels).long()


def teacher_of(predictions: Predictions) -> Float[Tensor, "n classes"]:
    """The teacher's logits, which are known to be there."""
    return cast(Tensor, predictions.teacher)
