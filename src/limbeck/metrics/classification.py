"""Accuracy, top-5 accuracy and negative log-likelihood, and `evaluate`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from limbeck.errors import unknown_name_error
from limbeck.metrics.calibration import brier, confidence, ece, entropy, mce
from limbeck.metrics.classes import worst_class_accuracy
from limbeck.metrics.fidelity import (
    agreement,
    agreement_where_teacher_wrong,
    confidence_deviation,
    confidence_slope,
    kl_to_teacher,
    relative_calibration,
    reverse_kl_to_teacher,
)
from limbeck.metrics.gradient_weight import gradient_weight
from limbeck.metrics.language import LANGUAGE_METRICS, TextSums
from limbeck.metrics.memoize import by_rows, predicted_class, shared_cache
from limbeck.metrics.metric import Metric, MetricFunction, fraction, labeled_rows, labels_of, metric, summed, valid_rows
from limbeck.metrics.multi_label import MULTI_LABEL_METRICS, MultiLabelPredictions
from limbeck.metrics.predictions import Predictions
from limbeck.metrics.regression import REGRESSION_METRICS, Estimates
from limbeck.metrics.segmentation import SEGMENTATION_METRICS, PixelCounts


@metric(unit="fraction", higher_is_better=True, requires=("labels",))
def accuracy(predictions: Predictions) -> Metric:
    """Compute the accuracy. Of equal logits the first counts, and a row with a NaN is wrong.

    Example:
        >>> accuracy(Predictions(torch.eye(2), labels=torch.tensor([0, 0]))).value
        0.5
    """
    return fraction(predicted_class(predictions.student) == labels_of(predictions))


def correctness(predictions: Predictions) -> Bool[Tensor, " labeled"]:
    """Compute which rows with a label are right, as counted by `accuracy`.

    Raises:
        LimbeckError: If there are no labels.

    Example:
        >>> correctness(Predictions(torch.eye(2), labels=torch.tensor([0, 0]))).tolist()
        [True, False]
    """
    counting = valid_rows(predictions, "correctness", ("labels",))
    return predicted_class(counting.student) == labels_of(counting)


@metric(unit="fraction", higher_is_better=True, requires=("labels",))
def top5(predictions: Predictions) -> Metric:
    """Compute how often the label is among the five largest logits. It is 1 for up to five classes.

    Of equal logits the earlier class ranks higher, and a row with a NaN is wrong, as in `accuracy`.
    """
    above = by_rows(_ranked_above, predictions.student, labels_of(predictions))
    return fraction((above < 5) & (predicted_class(predictions.student) >= 0))


def _ranked_above(student: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Count the classes that rank higher than the label."""
    own = student.gather(1, labels[:, None])
    earlier = torch.arange(student.shape[1]) < labels[:, None]
    return ((student > own) | ((student == own) & earlier)).sum(1)


@metric(unit="nats", higher_is_better=False, requires=("labels",))
def nll(predictions: Predictions) -> Metric:
    """Compute the negative log-likelihood ``-log q_y`` of the labels; infinite where the logit of a label is -inf.

    Example:
        >>> round(nll(Predictions(torch.zeros(1, 2), labels=torch.tensor([1]))).value, 4)
        0.6931
    """
    return summed(by_rows(_log_losses, predictions.student, labels_of(predictions)))


def _log_losses(student: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    return F.cross_entropy(student.double(), labels, reduction="none")


METRICS: dict[str, MetricFunction] = {
    function.__name__: function
    for function in (
        accuracy, top5, nll, brier, ece, mce, confidence, entropy, worst_class_accuracy,
        agreement, agreement_where_teacher_wrong, kl_to_teacher, reverse_kl_to_teacher,
        confidence_slope, confidence_deviation, relative_calibration, gradient_weight,
    )
}  # fmt: skip
"""All metrics of a classifier by name."""


def evaluate(predictions: Any, names: Iterable[str]) -> dict[str, Metric]:
    """Compute metrics by name. Shared intermediate results are computed once, block by block.

    So the additional memory does not grow with rows times classes.

    Args:
        predictions: `Predictions`, whose metrics are `METRICS`; or `Estimates` (`REGRESSION_METRICS`),
            `MultiLabelPredictions` (`MULTI_LABEL_METRICS`), `PixelCounts` (`SEGMENTATION_METRICS`), or `TextSums`
            (`LANGUAGE_METRICS`).
        names: Names of metrics.

    Raises:
        UnknownNameError: If there is no such metric. The message suggests the nearest name.
        LimbeckError: If a metric needs labels or a teacher that are missing.

    Example:
        >>> evaluate(Predictions(torch.eye(3), labels=torch.arange(3)), ["accuracy"])["accuracy"].value
        1.0
    """
    metrics, table = list(names), _table(predictions)
    for name in metrics:
        if name not in table:
            raise unknown_name_error("metric", name, table)
    counting = labeled_rows(predictions) if isinstance(predictions, Predictions) else predictions
    with shared_cache():
        return {name: table[name](counting) for name in metrics}


def _table(predictions: Any) -> dict[str, MetricFunction]:
    tables = {
        Estimates: REGRESSION_METRICS,
        MultiLabelPredictions: MULTI_LABEL_METRICS,
        PixelCounts: SEGMENTATION_METRICS,
        TextSums: LANGUAGE_METRICS,
    }
    return tables.get(type(predictions), METRICS)
