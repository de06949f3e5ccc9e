"""Fidelity of a student to its teacher: agreement, divergences, confidence."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.batch import IGNORED
from limbeck.metrics.memoize import by_rows, cached, log_odds, predicted_class, probability_of
from limbeck.metrics.metric import Metric, fraction, labels_of, mean_of_all, metric, summed, teacher_of, valid_rows
from limbeck.metrics.predictions import Predictions


class Deviations(NamedTuple):
    """The points of a scatter plot of student against teacher, and its least-squares line.

    Attributes:
        rows: The rows of the points: labeled rows with finite log-odds of both models.
        classes: The teacher's class k of each point.
        teacher: X, the teacher's log-odds ``log(p_k / (1 - p_k))``.
        student: Y, the student's log-odds of the same class.
        slope: The slope of ``Y = slope X + intercept``. Above 1 the student exaggerates confidence. NaN if all X are
            equal.
        intercept: Y at X = 0, where the teacher's probability is one half.
        least_sure: The mean of Y - X over the tenth of the rows with the lowest teacher confidence. Below 0 the student
            underfits examples that are hard for the teacher.
        most_sure: The same over the tenth with the highest teacher confidence.
        left_out: The number of labeled rows without a point, because log-odds are infinite.
    """

    rows: Int[Tensor, " points"]
    classes: Int[Tensor, " points"]
    teacher: Float[Tensor, " points"]
    student: Float[Tensor, " points"]
    slope: float
    intercept: float
    least_sure: float
    most_sure: float
    left_out: int


def deviations(predictions: Predictions) -> Deviations:
    """Compute the deviation of the student's confidence in the teacher's class, for each example.

    Args:
        predictions: Predictions with the teacher's logits. Rows with the label -100 are left out.

    Raises:
        LimbeckError: If there are no teacher logits, or the numbers of classes differ.

    Example:
        >>> teacher = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.5, 0.0]])
        >>> found = deviations(Predictions(1.5 * teacher, teacher))
        >>> round(found.slope, 6), found.teacher.tolist(), found.student.tolist()
        (1.5, [2.0, 1.0, 0.5], [3.0, 1.5, 0.75])

    Source: Nagarajan, Menon, Bhojanapalli, Mobahi and Kumar, On student-teacher deviations in distillation, 2023,
    arXiv:2301.12923, section 3.
    """
    values = deviations_of(valid_rows(predictions, "deviations", ("teacher",)))
    if predictions.labels is None:
        return values
    return values._replace(rows=(predictions.labels != IGNORED).nonzero()[:, 0][values.rows])


def deviations_of(predictions: Predictions) -> Deviations:
    """`deviations` without a check of the labels."""
    return cached(_deviations, predictions.student, teacher_of(predictions))


def _deviations(student: Tensor, teacher: Tensor) -> Deviations:
    k = teacher.argmax(1)
    x, y = log_odds(teacher, k), log_odds(student, k)
    rows = (x.isfinite() & y.isfinite()).nonzero()[:, 0]
    x, y = x[rows], y[rows]
    slope, intercept = _line(x, y)
    tenth = -(-len(rows) // 10)
    by_confidence = (y - x)[x.argsort(stable=True)]
    least, most = by_confidence[:tenth].mean(), by_confidence[len(rows) - tenth :].mean()
    return Deviations(rows, k[rows], x, y, slope, intercept, float(least), float(most), len(teacher) - len(rows))


def _line(x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> tuple[float, float]:
    if len(x) == 0 or bool((x == x[0]).all()):
        return torch.nan, torch.nan
    off = x - x.mean()
    # Scaled so that the square of a huge logit is finite.
    scale = off.abs().max()
    slope = float((off / scale * ((y - y.mean()) / scale)).sum() / (off / scale).square().sum())
    return slope, float(y.mean() - slope * x.mean())


@metric(unit="fraction", higher_is_better=True, requires=("teacher",))
def agreement(predictions: Predictions) -> Metric:
    """Compute the top-1 agreement: how often student and teacher predict the same class.

    Source: Stanton, Izmailov, Kirichenko, Alemi and Wilson, Does Knowledge Distillation Really Work?, 2021,
    arXiv:2106.05945.
    """
    classes = predicted_class(predictions.student)
    return fraction((classes == predicted_class(teacher_of(predictions))) & (classes >= 0))


@metric(unit="fraction", higher_is_better=None, requires=("teacher", "labels"))
def agreement_where_teacher_wrong(predictions: Predictions) -> Metric:
    """Compute how often the student predicts the same class on rows that the teacher gets wrong.

    Agreement on rows where both are right means little, because any two good models agree there. NaN for a teacher
    without errors.

    Source: Stanton et al., Does Knowledge Distillation Really Work?, 2021, arXiv:2106.05945; Lukasik et al., Teacher's
    pet, 2021, arXiv:2106.10494, on errors that a student amplifies.
    """
    classes = predicted_class(teacher_of(predictions))
    wrong = (classes != labels_of(predictions)) & (classes >= 0)
    return fraction(predicted_class(predictions.student)[wrong] == classes[wrong])


@metric(unit="nats", higher_is_better=False, requires=("teacher",))
def kl_to_teacher(predictions: Predictions) -> Metric:
    """Compute ``KL(p || q)`` of the student's distribution q from the teacher's p, at temperature 1.

    It is zero for equal distributions, and infinite if the student's probability of a class is 0 and the teacher's is
    not.

    Source: Stanton et al., Does Knowledge Distillation Really Work?, 2021, arXiv:2106.05945.
    """
    from limbeck.functional import kl_divergence

    return summed(
        by_rows(lambda s, t: kl_divergence(s.double(), t.double()), predictions.student, teacher_of(predictions))
    )


@metric(unit="nats", higher_is_better=False, requires=("teacher",))
def reverse_kl_to_teacher(predictions: Predictions) -> Metric:
    """Compute ``KL(q || p)`` of the teacher's distribution p from the student's q, at temperature 1.

    It is large if a class is likely for the student and very unlikely for the teacher. `kl_to_teacher` is large in the
    opposite case.
    """
    from limbeck.functional import reverse_kl

    return summed(
        by_rows(lambda s, t: reverse_kl(s.double(), t.double()), predictions.student, teacher_of(predictions))
    )


@metric(unit="ratio", higher_is_better=None, requires=("teacher",))
def confidence_slope(predictions: Predictions) -> Metric:
    """Compute the slope of the student's log-odds against the teacher's. Above 1 the student exaggerates confidence.

    With k the teacher's class, X and Y the log-odds of ``p_k`` and ``q_k``: ``cov(X, Y) / var(X)`` (least squares). It
    is 1 for a student equal to its teacher, and T for two classes and logits that are T times the teacher's. It is not
    a mean over rows. NaN if all X are equal. `deviations` gives the points of the scatter plot.

    Source: Nagarajan, Menon, Bhojanapalli, Mobahi and Kumar, On student-teacher deviations in distillation, 2023,
    arXiv:2301.12923.
    """
    deviations = deviations_of(predictions)
    return mean_of_all(deviations.slope, len(deviations.rows))


@metric(unit="nats", higher_is_better=None, requires=("teacher",))
def confidence_deviation(predictions: Predictions) -> Metric:
    """Compute the student's log-odds of the teacher's class minus the teacher's. Below 0 the student is less confident.

    Rows with infinite log-odds are left out.

    Source: Nagarajan et al., On student-teacher deviations in distillation, 2023, arXiv:2301.12923.
    """
    deviations = deviations_of(predictions)
    return summed(deviations.student - deviations.teacher)


@metric(unit="probability", higher_is_better=False, requires=("teacher",))
def relative_calibration(predictions: Predictions) -> Metric:
    """Compute ``|q_k - p_k|``, the gap in confidence between student and teacher in the teacher's class k.

    It is the gap of the paper at radius 0. `confidence_gap` searches for the largest gap within a radius of each input.

    Source: Lamb, Brunel, Dvijotham, Kumar, Torr and Eiras, Faithful Knowledge Distillation, 2023, arXiv:2306.04431.
    """
    k = teacher_of(predictions).argmax(1)
    return summed((probability_of(predictions.student, k) - probability_of(teacher_of(predictions), k)).abs())


def _in_double(divergence: Callable[..., Tensor], predictions: Predictions) -> Float[Tensor, " n"]:
    result: Tensor = by_rows(
        lambda student, teacher: divergence(student.double(), teacher.double()),
        predictions.student,
        teacher_of(predictions),
    )
    return result
