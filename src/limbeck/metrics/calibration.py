"""Calibration: reliability, Brier score, calibration error, and the confidence gap within a radius."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.errors import DataError, LimbeckError
from limbeck.metrics.memoize import confidence_of, probability_of, row_sums
from limbeck.metrics.metric import Metric, labels_of, mean_of_all, metric, summed, valid_rows
from limbeck.metrics.predictions import Predictions, as_batches
from limbeck.model_call import call, logits_of
from limbeck.tap import FrozenParameters

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


class ConfidenceGap(NamedTuple):
    """The largest confidence gap between student and teacher near each example.

    Attributes:
        gap: ``|q_k - p_k|`` at the worst point for each example, where k is the teacher's class at the example.
        agrees: Whether both models predict the same class at that point.
    """

    gap: Float[Tensor, " n"]
    agrees: Tensor

    @property
    def mean(self) -> Metric:
        """The mean gap over examples."""
        return Metric(float(self.gap.sum()), len(self.gap))

    def within(self, tolerance: float) -> Metric:
        """Count the examples with a gap up to `tolerance`: an upper bound on the faithful ones."""
        return Metric(float((self.gap <= tolerance).sum()), len(self.gap))


def confidence_gap(
    student: nn.Module,
    teacher: nn.Module,
    data: Any,
    *,
    radius: float,
    steps: int = 10,
    limits: tuple[float, float] | None = None,
) -> ConfidenceGap:
    """Find the largest difference in confidence within a radius of each example, with an attack.

    ``max |q_k(x') - p_k(x')|`` over ``|x' - x| <= radius`` in every input, where k is the teacher's class at x. It
    takes signed gradient steps of ``2.5 radius / steps`` from x with projection, and keeps the worst point. The result
    is a lower bound: there may be worse points. At radius 0 its mean is `relative_calibration`.

    Args:
        student: Any module that takes one tensor, on its device.
        teacher: Another such module.
        data: Batches, a `Dataset`, inputs, or a loader, with float inputs of the models.
        radius: The radius in units of the inputs, 0 or more.
        steps: The number of steps of the attack, at least 1.
        limits: The smallest and largest value of an input, such as (0, 1).

    Raises:
        LimbeckError: If `radius` is below 0, `steps` below 1, or `limits` are not an interval.
        DataError: If the inputs are not one float tensor, or there is no example.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> confidence_gap(model, model, torch.randn(5, 3), radius=0.1).mean.value
        0.0

    Source: Lamb, Brunel, Dvijotham, Kumar, Torr and Eiras, Faithful Knowledge Distillation, 2023, arXiv:2306.04431;
    steps: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, 2017, arXiv:1706.06083.
    """
    if not 0 <= radius < float("inf") or steps < 1 or (limits is not None and not limits[0] < limits[1]):
        raise LimbeckError(
            "confidence_gap needs a radius of 0 or more, at least one step, and limits (smallest, largest); got "
            f"radius={radius}, steps={steps}, limits={limits}."
        )
    gaps, agrees = [], []
    with FrozenParameters(student), FrozenParameters(teacher):
        for batch in as_batches(data):
            x = batch.inputs
            if not isinstance(x, Tensor) or not x.is_floating_point():
                raise DataError("confidence_gap needs inputs that are one float tensor.")
            gap, agree = _attacked(student, teacher, x, radius, steps, limits)
            gaps.append(gap.cpu())
            agrees.append(agree.cpu())
    if not gaps:
        raise DataError("There is no example to attack: the loader yielded no batch.")
    return ConfidenceGap(torch.cat(gaps), torch.cat(agrees))


def _attacked(
    student: nn.Module, teacher: nn.Module, x: Tensor, radius: float, steps: int, limits: tuple[float, float] | None
) -> tuple[Tensor, Tensor]:
    device = next((p.device for p in (*student.parameters(), *teacher.parameters())), x.device)
    x = x.detach().to(device)
    low, high = x - radius, x + radius
    if limits is not None:
        low, high = low.clamp(*limits), high.clamp(*limits)
    with torch.no_grad():
        k = logits_of(call(teacher, x)).argmax(1)
    worst, agree = x.new_full((len(x),), -1.0, dtype=torch.float64), torch.ones_like(k, dtype=torch.bool)
    point = x
    # A radius of 0 has one point; otherwise the example itself is the first point.
    for step in range(steps + 1 if radius else 1):
        point = point.detach().requires_grad_(True)
        with torch.enable_grad():
            q, p = (logits_of(call(model, point)).double().softmax(1) for model in (student, teacher))
            gap = (q.gather(1, k[:, None]) - p.gather(1, k[:, None]))[:, 0].abs()
            gaps, same = gap.detach(), q.argmax(1) == p.argmax(1)
            agree, worst = torch.where(gaps > worst, same, agree), torch.maximum(worst, gaps)
            if step < steps and radius:
                (slope,) = torch.autograd.grad(gap.sum(), point)
                point = (point + 2.5 * radius / steps * slope.sign()).clamp(low, high)
    return worst, agree
