"""Calibration: reliability, Brier score, calibration error."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.metrics.memoize import confidence_of, probability_of, row_sums
from limbeck.metrics.metric import Metric, labels_of, mean_of_all, metric, summed, valid_rows
from limbeck.metrics.predictions import Predictions

BINS = 15
"""The number of equal-width bins of the calibration errors."""


class Reliability(NamedTuple):
    """The bins of a reliability diagram. Bin m has the rows with a confidence in ``(edges[m], edges[m + 1]]``.

    Attributes:
        edges: Edges of the bins, from 0 to 1.
        counts: The number of rows in each bin.
        confidence: The mean of the largest probability in each bin; NaN in an empty bin.
        accuracy: The accuracy in each bin; NaN in an empty bin.
    """

    edges: Float[Tensor, " edges"]
    counts: Int[Tensor, " bins"]
    confidence: Float[Tensor, " bins"]
    accuracy: Float[Tensor, " bins"]


def reliability(predictions: Predictions, *, bins: int = BINS) -> Reliability:
    """Compute confidence and accuracy in the bins of `ece`.

    ``ece = sum_m counts_m / n |accuracy_m - confidence_m|``, and `mce` is the largest of these gaps.

    Args:
        predictions: Predictions with labels. Rows without a label are left out.
        bins: The number of bins of equal width.

    Raises:
        LimbeckError: If there are no labels, or `bins` is below 1.

    Example:
        >>> found = reliability(Predictions(torch.zeros(4, 2), labels=torch.tensor([0, 0, 0, 1])), bins=2)
        >>> found.counts.tolist(), found.confidence.tolist(), found.accuracy.tolist()
        ([4, 0], [0.5, nan], [0.75, nan])

    Source: Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, 2017, arXiv:1706.04599.
    """
    if bins < 1:
        raise LimbeckError(f"reliability needs at least one bin; got bins={bins}.")
    return _binned(valid_rows(predictions, "reliability", ("labels",)), bins)


@metric(unit="fraction", higher_is_better=False, requires=("labels",))
def ece(predictions: Predictions) -> Metric:
    """Compute the expected calibration error: ``sum_m |B_m| / n * |acc(B_m) - conf(B_m)|`` over 15 bins of equal width.

    The confidence is the largest probability; bin m holds ``((m - 1) / 15, m / 15]``. It is not a mean over rows: the
    totals of two sets of predictions do not add up to the total of both.

    Source: Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, 2017, arXiv:1706.04599.

    Example:
        >>> ece(Predictions(torch.zeros(4, 2), labels=torch.tensor([0, 0, 1, 1]))).value
        0.0
    """
    return Metric(float(_surplus(predictions).abs().sum()), len(predictions.student))


@metric(unit="fraction", higher_is_better=False, requires=("labels",))
def mce(predictions: Predictions) -> Metric:
    """Compute the maximum calibration error: ``max_m |acc(B_m) - conf(B_m)|`` over the bins of `ece`.

    It is not a mean over rows. A bin with few rows can decide it, so look at `reliability` too.

    Source: Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, 2017, arXiv:1706.04599.

    Example:
        >>> mce(Predictions(torch.zeros(4, 2), labels=torch.tensor([0, 0, 0, 1]))).value
        0.25
    """
    sizes = torch.bincount(_bins(predictions, BINS), minlength=BINS)
    gaps = _surplus(predictions).abs() / sizes.clamp(min=1)
    return mean_of_all(float(gaps.max()), len(predictions.student))


@metric(unit="squared probability", higher_is_better=False, requires=("labels",))
def brier(predictions: Predictions) -> Metric:
    """Compute the Brier score ``sum_c (q_c - [c = y])^2``, from 0 to 2.

    For two classes it is twice the score of a single class. It is a proper score: its expectation is smallest for the
    true probabilities. Unlike `nll` it is bounded.

    Source: Brier, Verification of Forecasts Expressed in Terms of Probability, Monthly Weather Review 78, 1950.

    Example:
        >>> brier(Predictions(torch.zeros(1, 2), labels=torch.tensor([1]))).value
        0.5
    """
    own, squares = probability_of(predictions.student, labels_of(predictions)), row_sums(predictions.student).squares
    # (1 - q_y)^2 is computed separately; otherwise it would cancel where the student is confident and right.
    return summed((1 - own).square() + (squares - own.square()).clamp(min=0))


@metric(unit="nats", higher_is_better=None, requires=())
def entropy(predictions: Predictions) -> Metric:
    """Compute the entropy ``-sum_c q_c log q_c`` of the student's distribution, from 0 to ``log C``.

    Example:
        >>> round(entropy(Predictions(torch.zeros(1, 2))).value, 4)
        0.6931
    """
    return summed(row_sums(predictions.student).entropy)


@metric(unit="probability", higher_is_better=None, requires=())
def confidence(predictions: Predictions) -> Metric:
    """Compute the student's largest probability. If the mean is above `accuracy`, the student is overconfident.

    Example:
        >>> confidence(Predictions(torch.zeros(1, 2))).value
        0.5
    """
    return summed(confidence_of(predictions.student))


def _bins(predictions: Predictions, bins: int) -> Int[Tensor, " n"]:
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
    return torch.bucketize(confidence_of(predictions.student), edges)


def _right(predictions: Predictions) -> Float[Tensor, " n"]:
    return (predictions.student.argmax(1) == labels_of(predictions)).double()


def _surplus(predictions: Predictions) -> Float[Tensor, " bins"]:
    """Sum confidence minus correctness in each bin."""
    surplus = confidence_of(predictions.student) - _right(predictions)
    return torch.zeros(BINS, dtype=torch.float64).index_add(0, _bins(predictions, BINS), surplus)


def _binned(predictions: Predictions, bins: int) -> Reliability:
    index = _bins(predictions, bins)
    counts = torch.bincount(index, minlength=bins)
    zero = torch.zeros(bins, dtype=torch.float64)
    sure, right = confidence_of(predictions.student), _right(predictions)
    return Reliability(
        torch.linspace(0, 1, bins + 1, dtype=torch.float64),
        counts,
        zero.index_add(0, index, sure) / counts,
        zero.index_add(0, index, right) / counts,
    )
