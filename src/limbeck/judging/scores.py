"""Scores of single examples: how right one arm's prediction of each example is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import DataError, LimbeckError, unknown
from limbeck.signal import IGNORED

Scores = NDArray[np.float64]
"""One number for each example, ``[n]``; NaN for an example that does not count."""


@dataclass(frozen=True)
class Metric:
    """A score for each example, and how it is spoken of.

    Attributes:
        name: ``accuracy``, ``squared_error``, ...
        score: Predictions and targets -> `Scores`.
        higher_is_better: Which way is better.
        largest: The greatest difference that one example can make; infinite where there is no bound.
        percent: Whether it is a fraction that people read in percent.
    """

    name: str
    score: Callable[[Any, Any], Scores]
    higher_is_better: bool
    largest: float = float("inf")
    percent: bool = False


def open_metric(metric: str | Callable[[Any, Any], Any], *, higher_is_better: bool | None) -> Metric:
    """The metric that a name, or a function of one's own, stands for.

    Raises:
        UnknownNameError: If there is no such metric; the nearest is named.
        LimbeckError: If nobody says which way a function of one's own, or given scores, is better.
    """
    if isinstance(metric, str) and metric not in METRICS:
        if (other := _OTHER_NAMES.get(metric)) is not None:
            raise unknown("metric", metric, METRICS, then=f"Here it is called {other!r}.")
        raise unknown(
            "metric", metric, METRICS, then="Or a function of (predictions, targets) that scores each example."
        )
    if isinstance(metric, str) and metric != "score":
        known = METRICS[metric]
        if higher_is_better not in (None, known.higher_is_better):
            raise LimbeckError(
                f"metric={metric!r} has higher_is_better={known.higher_is_better}; leave the argument out, or give a "
                "function of your own."
            )
        return known
    if higher_is_better is None:
        raise LimbeckError(
            "Say which way the scores are better: higher_is_better=True, as of an accuracy, or False, as of an error."
        )
    if isinstance(metric, str):
        return Metric("score", METRICS["score"].score, higher_is_better)
    return Metric(getattr(metric, "__name__", "score"), metric, higher_is_better)


def score_accuracy(predictions: Any, targets: Any) -> Scores:
    """1 where the predicted class is the target; logits or probabilities ``[n, classes]`` give the largest's class."""
    given, labels = array_of(predictions), array_of(targets)
    if given.ndim == labels.ndim + 1 and given.dtype.kind == "f":
        if given.shape[1] == 1:
            raise DataError("accuracy got one logit for each example: give classes, or a column for each class.")
        given = np.where(np.isnan(given).any(1), -1, given.argmax(1))
    _check_alike(given, labels, "accuracy")
    _check_classes(given, labels)
    right = (given == labels).astype(np.float64)
    if labels.dtype.kind in "iu":
        right[labels == IGNORED] = np.nan
    elif labels.dtype.kind == "f":
        right[np.isnan(labels)] = np.nan
    return _mean_of_known(right)


def score_iou(predictions: Any, targets: Any) -> Scores:
    r"""The mean over classes of intersection over union, of each picture.

    For class c, :math:`|P_c \cap T_c| / |P_c \cup T_c|` over the pixels that have a label; the mean is over the
    classes that the prediction or the target of that picture holds. Maps are ``[n, height, width]`` of class numbers,
    or logits ``[n, classes, height, width]``.
    """
    given, labels = array_of(predictions), array_of(targets)
    if given.ndim == labels.ndim + 1:
        given = given.argmax(1)
    _check_alike(given, labels, "iou")
    if labels.ndim < 2 or labels.dtype.kind not in "iub" or given.dtype.kind not in "iub":
        raise DataError(f"iou compares maps of class numbers [n, height, width]; got targets {list(labels.shape)}.")
    return np.array([_iou(one.ravel(), other.ravel()) for one, other in zip(given, labels, strict=True)])


def score_squared_error(predictions: Any, targets: Any) -> Scores:
    """The squared error of each example, the mean over its outputs; a NaN target does not count."""
    return _mean_of_known(_difference(predictions, targets, "squared_error") ** 2)


def score_absolute_error(predictions: Any, targets: Any) -> Scores:
    """The absolute error of each example, the mean over its outputs; a NaN target does not count."""
    return _mean_of_known(np.abs(_difference(predictions, targets, "absolute_error")))


def score_given(predictions: Any, targets: Any) -> Scores:
    """Scores that are given in the place of predictions."""
    return array_of(predictions).astype(np.float64)


_OTHER_NAMES = {"mse": "squared_error", "mae": "absolute_error", "miou": "iou", "acc": "accuracy", "error": "accuracy"}
"""What other libraries call them, for the sentence that names the nearest."""
METRICS: dict[str, Metric] = {
    "accuracy": Metric("accuracy", score_accuracy, True, largest=1.0, percent=True),
    "iou": Metric("iou", score_iou, True, largest=1.0, percent=True),
    "squared_error": Metric("squared_error", score_squared_error, False),
    "absolute_error": Metric("absolute_error", score_absolute_error, False),
    "score": Metric("score", score_given, True),
}
"""Metrics by name; ``score`` takes scores as they are."""


def array_of(values: Any) -> NDArray[Any]:
    """A numpy array of a tensor, array or list."""
    detached = values.detach().cpu() if hasattr(values, "detach") else values
    if hasattr(detached, "is_floating_point") and detached.is_floating_point():
        detached = detached.float()  # numpy has no bfloat16
    return np.asarray(detached)


def _iou(given: NDArray[Any], labels: NDArray[Any]) -> float:
    known = labels != IGNORED
    given, labels = given[known], labels[known]
    if not len(labels):
        return float("nan")
    shares = []
    for number in np.union1d(given, labels):
        of_given, of_labels = given == number, labels == number
        shares.append((of_given & of_labels).sum() / (of_given | of_labels).sum())
    return float(np.mean(shares))


def _difference(predictions: Any, targets: Any, name: str) -> NDArray[np.float64]:
    given, wanted = (array_of(one).astype(np.float64) for one in (predictions, targets))
    if given.ndim == wanted.ndim + 1 and given.shape[-1] == 1:
        given = given[..., 0]  # [n, 1] beside [n] would otherwise be spread to [n, n]
    _check_alike(given, wanted, name)
    return given - wanted


def _mean_of_known(values: NDArray[np.float64]) -> Scores:
    flat = values.reshape(len(values), -1)
    known = ~np.isnan(flat)
    total = np.where(known, flat, 0.0).sum(1)
    return np.where(known.any(1), total / np.maximum(known.sum(1), 1), np.nan)


def _check_classes(given: NDArray[Any], labels: NDArray[Any]) -> None:
    """Refuse what would count as wrong throughout: numbers beside names, and probabilities beside classes."""
    numbers = "iufb"
    if (given.dtype.kind in numbers) != (labels.dtype.kind in numbers) and "O" not in (
        given.dtype.kind,
        labels.dtype.kind,
    ):
        raise DataError(
            f"accuracy compares classes that are {given.dtype} with targets that are {labels.dtype}: give both as "
            "numbers or both as names."
        )
    for name, values in (("predictions", given), ("targets", labels)):
        if values.dtype.kind == "f" and (values[np.isfinite(values)] % 1 != 0).any():
            raise DataError(
                f"accuracy got {name} {list(values.shape)} that are no whole numbers: give classes; logits and "
                "probabilities have a column for each class."
            )


def _check_alike(given: NDArray[Any], targets: NDArray[Any], name: str) -> None:
    if given.shape != targets.shape:
        raise DataError(
            f"{name} compares predictions {list(given.shape)} with targets {list(targets.shape)}; they have to be of "
            "one shape, or predictions may have one dimension more, of logits, after the first."
        )
