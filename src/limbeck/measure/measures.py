"""How good are predictions, against the labels and against the teacher?"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.errors import LimbeckError, unknown
from limbeck.measure.predictions import Predictions
from limbeck.signal import IGNORED

Needed = Literal["labels", "teacher"]


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
    """A function of predictions that says its unit and which way is better."""

    __name__: str
    unit: str
    higher_is_better: bool
    needs: tuple[Needed, ...]

    def __call__(self, predictions: Predictions) -> Measure:
        """The measure of these predictions."""


def measure(
    *, unit: str, higher_is_better: bool, needs: tuple[Needed, ...]
) -> Callable[[Callable[[Predictions], Measure]], MeasureFunction]:
    """Declare a measure: its unit, which way is better, and what it needs beside the student's logits.

    The decorated function sees only rows that count: where labels are known at all, rows labelled -100 are left out of
    every measure. It is called only if what it needs is there and fits.

    Args:
        unit: ``fraction``, ``nats``, ...
        higher_is_better: Whether more is better.
        needs: ``labels``, ``teacher`` or both.

    Returns:
        A decorator; the decorated function raises a `LimbeckError` that says what is lacking or does not fit.
    """

    def decorate(function: Callable[[Predictions], Measure]) -> MeasureFunction:
        @functools.wraps(function)
        def measured(predictions: Predictions) -> Measure:
            name = cast(MeasureFunction, function).__name__
            return function(_counting(_checked(predictions, name, needs)))

        found = cast(MeasureFunction, measured)
        found.unit, found.higher_is_better, found.needs = unit, higher_is_better, needs
        return found

    return decorate


@measure(unit="fraction", higher_is_better=True, needs=("labels",))
def accuracy(predictions: Predictions) -> Measure:
    """How often the largest logit is the label's; of equal logits the first counts.

    Example:
        >>> accuracy(Predictions(torch.eye(2), labels=torch.tensor([0, 0]))).value
        0.5
    """
    return _fraction(predictions.student.argmax(1) == _labels(predictions))


@measure(unit="fraction", higher_is_better=True, needs=("labels",))
def top5(predictions: Predictions) -> Measure:
    """How often the label's logit is among the five largest; 1 where there are five classes or fewer.

    Of equal logits the earlier class ranks higher, as in `accuracy`.
    """
    labels = _labels(predictions)[:, None]
    own = predictions.student.gather(1, labels)
    earlier = torch.arange(predictions.student.shape[1]) < labels
    above = (predictions.student > own) | ((predictions.student == own) & earlier)
    return _fraction(above.sum(1) < 5)


@measure(unit="nats", higher_is_better=False, needs=("labels",))
def nll(predictions: Predictions) -> Measure:
    """The negative log-likelihood ``-log q_y`` of the labels; infinite where a label's logit is -inf.

    Example:
        >>> round(nll(Predictions(torch.zeros(1, 2), labels=torch.tensor([1]))).value, 4)
        0.6931
    """
    return _sum(F.cross_entropy(predictions.student.double(), _labels(predictions), reduction="none"))


@measure(unit="fraction", higher_is_better=False, needs=("labels",))
def ece(predictions: Predictions) -> Measure:
    """The expected calibration error: ``sum_m |B_m| / n * |acc(B_m) - conf(B_m)|`` over 15 bins of equal width.

    The confidence is the largest probability; bin m holds ``((m - 1) / 15, m / 15]``. It is no mean of rows: the totals
    of two sets of predictions do not add up to the total of both.

    Source: Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, 2017, arXiv:1706.04599.

    Example:
        >>> ece(Predictions(torch.zeros(4, 2), labels=torch.tensor([0, 0, 1, 1]))).value
        0.0
    """
    confidence, predicted = predictions.student.double().softmax(1).max(1)
    edges = torch.linspace(0, 1, 16, dtype=torch.float64)[1:-1]
    surplus = confidence - (predicted == _labels(predictions)).double()
    by_bin = torch.zeros(15, dtype=torch.float64).index_add(0, torch.bucketize(confidence, edges), surplus)
    return Measure(float(by_bin.abs().sum()), len(surplus))


@measure(unit="fraction", higher_is_better=True, needs=("teacher",))
def agreement(predictions: Predictions) -> Measure:
    """How often student and teacher have their largest logit in the same class: top-1 agreement, the plainest fidelity.

    Source: Stanton, Izmailov, Kirichenko, Alemi and Wilson, Does Knowledge Distillation Really Work?, 2021,
    arXiv:2106.05945.
    """
    return _fraction(predictions.student.argmax(1) == _teacher(predictions).argmax(1))


@measure(unit="nats", higher_is_better=False, needs=("teacher",))
def kl_to_teacher(predictions: Predictions) -> Measure:
    """The divergence ``KL(p || q)`` of the student's distribution q from the teacher's p, at temperature 1.

    Zero where they are equal; infinite where the student rules out a class that the teacher does not.
    """
    from limbeck.functional import kl_divergence

    return _sum(kl_divergence(predictions.student.double(), _teacher(predictions).double(), temperature=1.0))


MEASURES: dict[str, MeasureFunction] = {
    function.__name__: function for function in (accuracy, top5, nll, ece, agreement, kl_to_teacher)
}
"""Every measure by name."""


def evaluate(predictions: Predictions, names: Iterable[str]) -> dict[str, Measure]:
    """The measures with these names.

    Raises:
        UnknownNameError: If there is no such measure; the nearest is offered.
        LimbeckError: If one needs labels or a teacher that are not there.

    Example:
        >>> evaluate(Predictions(torch.eye(3), labels=torch.arange(3)), ["accuracy"])["accuracy"].value
        1.0
    """
    wanted = list(names)
    for name in wanted:
        if name not in MEASURES:
            raise unknown("measure", name, MEASURES)
    return {name: MEASURES[name](predictions) for name in wanted}


def _checked(predictions: Predictions, name: str, needs: tuple[Needed, ...]) -> Predictions:
    student, teacher, labels = predictions
    for needed in needs:
        if getattr(predictions, needed) is None:
            raise LimbeckError(f"The measure {name!r} needs {needed}, and these predictions have none.")
    if "teacher" in needs and teacher is not None and teacher.shape != student.shape:
        raise LimbeckError(
            f"The measure {name!r} compares the same classes: the student has {student.shape[1]}, "
            f"the teacher {teacher.shape[1]}."
        )
    if "labels" in needs and labels is not None:
        wrong = labels[((labels < 0) & (labels != IGNORED)) | (labels >= student.shape[1])]
        if len(wrong):
            raise LimbeckError(
                f"The measure {name!r} needs labels from 0 to {student.shape[1] - 1} (or {IGNORED} for none); "
                f"got {int(wrong[0])}."
            )
    return predictions


def _counting(predictions: Predictions) -> Predictions:
    student, teacher, labels = predictions
    if labels is None:
        return predictions
    counts = labels != IGNORED
    return Predictions(student[counts], None if teacher is None else teacher[counts], labels[counts])


def _labels(predictions: Predictions) -> Int[Tensor, " n"]:
    return cast(Tensor, predictions.labels).long()


def _teacher(predictions: Predictions) -> Float[Tensor, "n classes"]:
    return cast(Tensor, predictions.teacher)


def _fraction(right: Tensor) -> Measure:
    return Measure(float(right.sum()), len(right))


def _sum(values: Tensor) -> Measure:
    return Measure(float(values.sum()), len(values))
