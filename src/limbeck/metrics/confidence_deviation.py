"""Deviation of the student's confidence from the teacher's, for each example."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.batch import IGNORED
from limbeck.metrics.memoize import cached, log_odds
from limbeck.metrics.predictions import Predictions
from limbeck.metrics.validation import teacher_of, valid_rows


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
