"""Metrics where several labels may be right at once."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.batch import IGNORED
from limbeck.errors import LimbeckError
from limbeck.metrics.metric import Metric, MetricFunction, fraction, metric, summed
from limbeck.metrics.validation import Needed, require_fields, valid_rows


class MultiLabel(NamedTuple):
    """Logits of independent yes-or-no answers, one row an example, one column a label; a logit above 0 is a yes.

    Attributes:
        student: The student's logits.
        teacher: The teacher's.
        labels: 1 for yes, 0 for no, `IGNORED` (-100) where that is not known, and such answers count nowhere.
    """

    student: Float[Tensor, "n labels"]
    teacher: Float[Tensor, "n labels"] | None = None
    labels: Int[Tensor, "n labels"] | Bool[Tensor, "n labels"] | None = None


@valid_rows.register
def _(answers: MultiLabel, name: str, requires: tuple[Needed, ...]) -> MultiLabel:
    require_fields(answers, name, requires)
    for part in requires:
        shape = getattr(answers, part).shape
        if shape != answers.student.shape or len(shape) != 2:
            raise LimbeckError(
                f"The measure {name!r} needs {part} of the student's shape, [examples, labels]; the student has "
                f"{list(answers.student.shape)}, {part} {list(shape)}."
            )
    if "labels" in requires and answers.labels is not None:
        labels = answers.labels.long()
        wrong = labels[(labels != 0) & (labels != 1) & (labels != IGNORED)]
        if len(wrong):
            raise LimbeckError(
                f"The measure {name!r} needs labels of 1 (yes), 0 (no) or {IGNORED} (unknown); got {int(wrong[0])}."
            )
        return answers._replace(labels=labels)
    return answers


@metric(unit="fraction", higher_is_better=True, requires=("labels",))
def mean_average_precision(answers: MultiLabel) -> Metric:
    """The mean over labels of the area under precision and recall, as a step function (average precision).

    Labels that no example has are left out, and the count is that of the others. Of one label,
    ``AP = sum_n (R_n - R_{n-1}) P_n`` over the thresholds; scikit-learn computes it.

    Example:
        >>> logits, labels = torch.tensor([[2.0], [1.0], [0.0]]), torch.tensor([[1], [0], [1]])
        >>> round(mean_average_precision(MultiLabel(logits, labels=labels)).value, 4)
        0.8333
    """
    from sklearn.metrics import average_precision_score

    labels = _labels(answers)
    precisions = []
    for column, truth in zip(answers.student.double().unbind(1), labels.unbind(1), strict=True):
        labeled = truth != IGNORED
        if bool((truth == 1).any()):
            # Precision asks for the order alone, and scikit-learn refuses what is infinite.
            ranks = column[labeled].unique(return_inverse=True)[1]
            precisions.append(float(average_precision_score(truth[labeled].numpy(), ranks.numpy())))
    return Metric(sum(precisions), len(precisions))


@metric(unit="fraction", higher_is_better=True, requires=("labels",))
def f1_micro(answers: MultiLabel) -> Metric:
    """``2 TP / (2 TP + FP + FN)`` over all answers together: total and count are its two sides.

    nan where there is no yes, neither said nor true.

    Example:
        >>> f1_micro(MultiLabel(torch.tensor([[1.0, 1.0]]), labels=torch.tensor([[1, 0]])))
        Metric(0.6667, over 3 rows)
    """
    hits, misses = (part.sum() for part in _hits(answers))
    return Metric(float(2 * hits), int(2 * hits + misses))


@metric(unit="fraction", higher_is_better=True, requires=("labels",))
def f1_macro(answers: MultiLabel) -> Metric:
    """The mean over labels of each one's F1; labels of which no yes is said or true are left out, and not counted."""
    hits, misses = _hits(answers)
    there = hits + misses > 0
    return summed((2 * hits / (2 * hits + misses))[there])


@metric(unit="fraction", higher_is_better=False, requires=("labels",))
def hamming(answers: MultiLabel) -> Metric:
    """The share of all known answers that are wrong (Hamming loss).

    Example:
        >>> hamming(MultiLabel(torch.tensor([[1.0, 1.0]]), labels=torch.tensor([[1, 0]]))).value
        0.5
    """
    labels = _labels(answers)
    return fraction(((answers.student > 0) != (labels == 1))[labels != IGNORED])


@metric(unit="nats", higher_is_better=False, requires=("labels",))
def binary_nll(answers: MultiLabel) -> Metric:
    """The negative log-likelihood of each known answer, each label a coin of its own: ``-log sigmoid(z)`` of a yes.

    Example:
        >>> round(binary_nll(MultiLabel(torch.zeros(1, 1), labels=torch.tensor([[1]]))).value, 4)
        0.6931
    """
    labels = _labels(answers)
    signed = torch.where(labels == 1, -answers.student.double(), answers.student.double())
    return summed(F.softplus(signed, threshold=50.0)[labels != IGNORED])


@metric(unit="fraction", higher_is_better=True, requires=("teacher",))
def answer_agreement(answers: MultiLabel) -> Metric:
    """The share of answers, yes or no, in which student and teacher agree."""
    return fraction((answers.student > 0) == (cast(Tensor, answers.teacher) > 0))


MULTI_LABEL_METRICS: dict[str, MetricFunction] = {
    function.__name__: function
    for function in (mean_average_precision, f1_micro, f1_macro, hamming, binary_nll, answer_agreement)
}
"""Every measure of multi-label answers by name."""


def _labels(answers: MultiLabel) -> Int[Tensor, "n labels"]:
    return cast(Tensor, answers.labels)


def _hits(answers: MultiLabel) -> tuple[Float[Tensor, " labels"], Float[Tensor, " labels"]]:
    """By label, how many true yeses were said, and how many yeses were said or true but not both."""
    predicted, true = answers.student > 0, _labels(answers) == 1
    labeled = _labels(answers) != IGNORED
    return (predicted & true & labeled).sum(0).double(), ((predicted ^ true) & labeled).sum(0).double()
