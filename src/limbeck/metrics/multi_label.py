"""Metrics of multi-label classification."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.batch import IGNORED
from limbeck.errors import LimbeckError
from limbeck.metrics.metric import Metric, MetricFunction, Needed, fraction, metric, require_fields, summed, valid_rows
from limbeck.optional_imports import import_optional


class MultiLabelPredictions(NamedTuple):
    """Logits of binary labels, one row per example and one column per label. A logit above 0 means yes.

    Attributes:
        student: The student's logits.
        teacher: The teacher's logits.
        labels: 1 for yes, 0 for no, `IGNORED` (-100) for unknown. Unknown labels do not count.
    """

    student: Float[Tensor, "n labels"]
    teacher: Float[Tensor, "n labels"] | None = None
    labels: Int[Tensor, "n labels"] | Bool[Tensor, "n labels"] | None = None


@valid_rows.register
def _(answers: MultiLabelPredictions, name: str, requires: tuple[Needed, ...]) -> MultiLabelPredictions:
    require_fields(answers, name, requires)
    for part in requires:
        shape = getattr(answers, part).shape
        if shape != answers.student.shape or len(shape) != 2:
            raise LimbeckError(
                f"The metric {name!r} needs {part} of the student's shape, [examples, labels]; the student has "
                f"{list(answers.student.shape)}, {part} {list(shape)}."
            )
    if "labels" in requires and answers.labels is not None:
        labels = answers.labels.long()
        wrong = labels[(labels != 0) & (labels != 1) & (labels != IGNORED)]
        if len(wrong):
            raise LimbeckError(
                f"The metric {name!r} needs labels of 1 (yes), 0 (no) or {IGNORED} (unknown); got {int(wrong[0])}."
            )
        return answers._replace(labels=labels)
    return answers


@metric(unit="fraction", higher_is_better=True, requires=("labels",))
def mean_average_precision(answers: MultiLabelPredictions) -> Metric:
    """Compute the mean over labels of the average precision.

    Labels without a positive example are left out; the count is the number of the others. For one label, ``AP = sum_n
    (R_n - R_{n-1}) P_n`` over the thresholds, computed by scikit-learn.

    Example:
        >>> logits, labels = torch.tensor([[2.0], [1.0], [0.0]]), torch.tensor([[1], [0], [1]])
        >>> round(mean_average_precision(MultiLabelPredictions(logits, labels=labels)).value, 4)
        0.8333
    """
    metrics = import_optional("sklearn.metrics", extra="sklearn", purpose="Average precision")
    labels = _labels(answers)
    precisions = []
    for column, truth in zip(answers.student.double().unbind(1), labels.unbind(1), strict=True):
        labeled = truth != IGNORED
        if bool((truth == 1).any()):
            # Only the order matters, and scikit-learn rejects infinite scores, so ranks are used.
            ranks = column[labeled].unique(return_inverse=True)[1]
            precisions.append(float(metrics.average_precision_score(truth[labeled].numpy(), ranks.numpy())))
    return Metric(sum(precisions), len(precisions))


@metric(unit="fraction", higher_is_better=True, requires=("labels",))
def f1_micro(answers: MultiLabelPredictions) -> Metric:
    """Compute ``2 TP / (2 TP + FP + FN)`` over all labels together: total and count are numerator and denominator.

    NaN if there is neither a predicted nor a true yes.

    Example:
        >>> f1_micro(MultiLabelPredictions(torch.tensor([[1.0, 1.0]]), labels=torch.tensor([[1, 0]])))
        Metric(0.6667, over 3 rows)
    """
    hits, misses = (part.sum() for part in _hits(answers))
    return Metric(float(2 * hits), int(2 * hits + misses))


@metric(unit="fraction", higher_is_better=True, requires=("labels",))
def f1_macro(answers: MultiLabelPredictions) -> Metric:
    """Compute the mean F1 over labels. Labels with neither a predicted nor a true yes are left out."""
    hits, misses = _hits(answers)
    there = hits + misses > 0
    return summed((2 * hits / (2 * hits + misses))[there])


@metric(unit="fraction", higher_is_better=False, requires=("labels",))
def hamming(answers: MultiLabelPredictions) -> Metric:
    """Compute the fraction of known labels that are predicted wrong (Hamming loss).

    Example:
        >>> hamming(MultiLabelPredictions(torch.tensor([[1.0, 1.0]]), labels=torch.tensor([[1, 0]]))).value
        0.5
    """
    labels = _labels(answers)
    return fraction(((answers.student > 0) != (labels == 1))[labels != IGNORED])


@metric(unit="nats", higher_is_better=False, requires=("labels",))
def binary_nll(answers: MultiLabelPredictions) -> Metric:
    """Compute the negative log-likelihood of each known label: ``-log sigmoid(z)`` for a yes.

    Example:
        >>> round(binary_nll(MultiLabelPredictions(torch.zeros(1, 1), labels=torch.tensor([[1]]))).value, 4)
        0.6931
    """
    labels = _labels(answers)
    signed = torch.where(labels == 1, -answers.student.double(), answers.student.double())
    return summed(F.softplus(signed, threshold=50.0)[labels != IGNORED])


@metric(unit="fraction", higher_is_better=True, requires=("teacher",))
def answer_agreement(answers: MultiLabelPredictions) -> Metric:
    """Compute the fraction of labels on which student and teacher agree."""
    return fraction((answers.student > 0) == (cast(Tensor, answers.teacher) > 0))


MULTI_LABEL_METRICS: dict[str, MetricFunction] = {
    function.__name__: function
    for function in (mean_average_precision, f1_micro, f1_macro, hamming, binary_nll, answer_agreement)
}
"""All metrics of multi-label classification by name."""


def _labels(answers: MultiLabelPredictions) -> Int[Tensor, "n labels"]:
    return cast(Tensor, answers.labels)


def _hits(answers: MultiLabelPredictions) -> tuple[Float[Tensor, " labels"], Float[Tensor, " labels"]]:
    """Count, by label, the true positives and the false positives plus false negatives."""
    predicted, true = answers.student > 0, _labels(answers) == 1
    labeled = _labels(answers) != IGNORED
    return (predicted & true & labeled).sum(0).double(), ((predicted ^ true) & labeled).sum(0).double()
