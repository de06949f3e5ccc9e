"""Metrics of regression: errors against the targets and against the teacher."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.metrics.metric import (
    Metric,
    MetricFunction,
    Needed,
    mean_of_all,
    metric,
    require_fields,
    summed,
    valid_rows,
)


class Estimates(NamedTuple):
    """Estimates of a regression model, one row per example and one column per output.

    Attributes:
        student: The student's estimates.
        teacher: The teacher's estimates.
        targets: The target values; NaN for unknown. Unknown targets do not count.
        variance: The student's variance of each estimate, above 0, for `gaussian_nll`.
    """

    student: Float[Tensor, "n outputs"]
    teacher: Float[Tensor, "n outputs"] | None = None
    targets: Float[Tensor, "n outputs"] | None = None
    variance: Float[Tensor, "n outputs"] | None = None


@valid_rows.register
def _(estimates: Estimates, name: str, requires: tuple[Needed, ...]) -> Estimates:
    require_fields(estimates, name, requires)
    for part in requires:
        shape = getattr(estimates, part).shape
        if shape != estimates.student.shape or len(shape) != 2:
            raise LimbeckError(
                f"The metric {name!r} needs {part} of the student's shape, [examples, outputs]; the student has "
                f"{list(estimates.student.shape)}, {part} {list(shape)}."
            )
    if "variance" in requires and not bool((cast(Tensor, estimates.variance) > 0).all()):
        raise LimbeckError(f"The metric {name!r} needs a variance above 0 for every estimate.")
    return estimates


@metric(unit="squared unit of the targets", higher_is_better=False, requires=("targets",))
def mse(estimates: Estimates) -> Metric:
    """Compute the mean squared error over all known targets.

    Example:
        >>> import torch
        >>> mse(Estimates(torch.zeros(2, 1), targets=torch.tensor([[1.0], [3.0]]))).value
        5.0
    """
    return summed(_errors(estimates).square())


@metric(unit="unit of the targets", higher_is_better=False, requires=("targets",))
def rmse(estimates: Estimates) -> Metric:
    """Compute the square root of `mse`. It is not a mean over targets.

    Example:
        >>> import torch
        >>> rmse(Estimates(torch.zeros(2, 1), targets=torch.tensor([[1.0], [7.0]]))).value
        5.0
    """
    errors = _errors(estimates)
    return mean_of_all(float(errors.square().mean().sqrt()), len(errors))


@metric(unit="unit of the targets", higher_is_better=False, requires=("targets",))
def mae(estimates: Estimates) -> Metric:
    """Compute the mean absolute error over all known targets.

    Example:
        >>> import torch
        >>> mae(Estimates(torch.zeros(2, 1), targets=torch.tensor([[1.0], [3.0]]))).value
        2.0
    """
    return summed(_errors(estimates).abs())


@metric(unit="fraction", higher_is_better=True, requires=("targets",))
def r2(estimates: Estimates) -> Metric:
    """Compute the explained fraction of the targets' variance: ``1 - sum (y - f)^2 / sum (y - mean y)^2``.

    For several outputs it is the mean over outputs; outputs without known targets are left out. For constant targets it
    is 1 if the estimates are equal to them, else 0, as in scikit-learn. It is not a mean over rows.

    Example:
        >>> import torch
        >>> r2(Estimates(torch.tensor([[1.0], [3.0]]), targets=torch.tensor([[1.0], [3.0]]))).value
        1.0
    """
    finite = _finite_targets(estimates)
    targets = cast(Tensor, estimates.targets).double()
    values = [
        _explained(estimates.student[rows, output].double(), targets[rows, output])
        for output, rows in enumerate(finite.unbind(1))
        if bool(rows.any())
    ]
    return mean_of_all(sum(values) / len(values) if values else math.nan, int(finite.sum()))


@metric(unit="nats", higher_is_better=False, requires=("targets", "variance"))
def gaussian_nll(estimates: Estimates) -> Metric:
    """Compute the negative log-likelihood of the targets under the student's normal distribution.

    ``(log(2 pi v) + (y - f)^2 / v) / 2``, over all known targets.

    Example:
        >>> import torch
        >>> one = torch.ones(1, 1)
        >>> round(gaussian_nll(Estimates(one, targets=one, variance=one)).value, 4)
        0.9189
    """
    variance = cast(Tensor, estimates.variance).double()[_finite_targets(estimates)]
    return summed(0.5 * ((2 * math.pi * variance).log() + _errors(estimates).square() / variance))


@metric(unit="squared unit of the targets", higher_is_better=False, requires=("teacher",))
def mse_to_teacher(estimates: Estimates) -> Metric:
    """Compute the mean squared difference from the teacher's estimates."""
    return summed((estimates.student.double() - cast(Tensor, estimates.teacher).double()).square())


REGRESSION_METRICS: dict[str, MetricFunction] = {
    function.__name__: function for function in (mse, rmse, mae, r2, gaussian_nll, mse_to_teacher)
}
"""All metrics of regression by name."""


def _finite_targets(estimates: Estimates) -> Bool[Tensor, "n outputs"]:
    return ~cast(Tensor, estimates.targets).isnan()


def _errors(estimates: Estimates) -> Float[Tensor, " known"]:
    finite = _finite_targets(estimates)
    return estimates.student.double()[finite] - cast(Tensor, estimates.targets).double()[finite]


def _explained(estimates: Float[Tensor, " n"], targets: Float[Tensor, " n"]) -> float:
    residual, whole = (estimates - targets).square().sum(), (targets - targets.mean()).square().sum()
    if float(whole) == 0.0:
        return float(residual == 0.0)
    return float(1 - residual / whole)
