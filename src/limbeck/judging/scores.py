"""Scores of single examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.batch import IGNORED
from limbeck.errors import DataError, LimbeckError, unknown_name_error

Scores = NDArray[np.float64]
"""One number per example, ``[n]``; NaN for an example that does not count."""


@dataclass(frozen=True)
class ScoreFunction:
    """A function that scores each example, and its properties.

    Attributes:
        name: ``accuracy``, ``squared_error``, ...
        score: Predictions and targets -> `Scores`.
        higher_is_better: Whether higher scores are better; None if the caller must say so.
        largest: The largest possible difference between two scores of an example; infinite without a bound.
        percent: Whether the score is a fraction that is shown in percent.
    """

    name: str
    score: Callable[[Any, Any], Scores]
    higher_is_better: bool | None
    largest: float = float("inf")
    percent: bool = False


def open_metric(metric: str | Callable[[Any, Any], Any], *, higher_is_better: bool | None) -> ScoreFunction:
    """Get a metric by its name, or wrap a user's function.

    Raises:
        UnknownNameError: If there is no such metric; the message names the nearest.
        LimbeckError: If `higher_is_better` is missing for a user's function or for ``score``.
    """
    if isinstance(metric, str) and metric not in METRICS:
        if (limbeck_name := _OTHER_NAMES.get(metric)) is not None:
            raise unknown_name_error("metric", metric, METRICS, then=f"In limbeck it is called {limbeck_name!r}.")
        raise unknown_name_error(
            "metric", metric, METRICS, then="Or give a function of (predictions, targets) that scores each example."
        )
    function = METRICS[metric] if isinstance(metric, str) else None
    if function is not None and function.higher_is_better is not None:
        if higher_is_better not in (None, function.higher_is_better):
            raise LimbeckError(
                f"metric={metric!r} has higher_is_better={function.higher_is_better}; omit the argument, or give your "
                "own function."
            )
        return function
    if higher_is_better is None:
        raise LimbeckError(
            "Give higher_is_better: True if higher scores are better, as for an accuracy; False, as for an error."
        )
    if function is not None:
        return replace(function, higher_is_better=higher_is_better)
    if isinstance(metric, str) or not callable(metric):
        raise LimbeckError(f"metric={metric!r} is neither a name nor a function; names are {', '.join(METRICS)}.")
    # an object with __call__ has no __name__
    return ScoreFunction(metric.__name__ if hasattr(metric, "__name__") else "score", metric, higher_is_better)


def score_accuracy(predictions: Any, targets: Any) -> Scores:
    """1 where the predicted class equals the target; of logits or probabilities ``[n, classes]`` the argmax."""
    predicted, labels = array_of(predictions), array_of(targets)
    if predicted.ndim == labels.ndim + 1 and predicted.dtype.kind == "f":
        if predicted.shape[1] == 1:
            raise DataError("accuracy got one logit per example; give classes, or a column for each class.")
        predicted = np.where(np.isnan(predicted).any(1), -1, predicted.argmax(1))
    _check_alike(predicted, labels, "accuracy")
    labeled = _labeled(labels)
    _check_classes(predicted, labels[labeled])
    return _mean_of((predicted == labels).astype(np.float64), labeled)


def score_iou(predictions: Any, targets: Any) -> Scores:
    r"""The mean intersection over union of the classes of each picture.

    For class c, :math:`|P_c \cap T_c| / |P_c \cup T_c|` over the pixels that have a label; the mean is over the
    classes that occur in the prediction or the target of that picture. Maps are ``[n, height, width]`` of class
    numbers, or logits ``[n, classes, height, width]``.
    """
    predicted, labels = array_of(predictions), array_of(targets)
    if predicted.ndim == labels.ndim + 1:
        is_nan = np.isnan(predicted).any(1) if predicted.dtype.kind == "f" else False
        predicted = np.where(is_nan, -1, predicted.argmax(1))
    _check_alike(predicted, labels, "iou")
    if labels.ndim < 2 or labels.dtype.kind not in "iub" or predicted.dtype.kind not in "iub":
        raise DataError(f"iou compares maps of class numbers [n, height, width]; got targets {list(labels.shape)}.")
    return np.array(
        [_iou(prediction.ravel(), target.ravel()) for prediction, target in zip(predicted, labels, strict=True)]
    )


def score_squared_error(predictions: Any, targets: Any) -> Scores:
    """The squared error of each example, averaged over its outputs; a NaN target does not count."""
    errors, has_target = _difference(predictions, targets, "squared_error")
    return _mean_of(errors**2, has_target)


def score_absolute_error(predictions: Any, targets: Any) -> Scores:
    """The absolute error of each example, averaged over its outputs; a NaN target does not count."""
    errors, has_target = _difference(predictions, targets, "absolute_error")
    return _mean_of(np.abs(errors), has_target)


def score_given(predictions: Any, targets: Any) -> Scores:
    """Return the predictions unchanged: they already are scores."""
    return array_of(predictions).astype(np.float64)


_OTHER_NAMES = {"mse": "squared_error", "mae": "absolute_error", "miou": "iou", "acc": "accuracy", "error": "accuracy"}
"""Names in other libraries, for the error message."""
METRICS: dict[str, ScoreFunction] = {
    "accuracy": ScoreFunction("accuracy", score_accuracy, True, largest=1.0, percent=True),
    "iou": ScoreFunction("iou", score_iou, True, largest=1.0, percent=True),
    "squared_error": ScoreFunction("squared_error", score_squared_error, False),
    "absolute_error": ScoreFunction("absolute_error", score_absolute_error, False),
    "score": ScoreFunction("score", score_given, None),
}
"""Metrics by name."""


def array_of(values: Any) -> NDArray[Any]:
    """Convert a tensor, array or list to a numpy array.

    Raises:
        DataError: If the rows differ in shape.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values  # numpy has no bfloat16
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"Cannot convert a {type(values).__name__} to an array of numbers or names: {error}."
        ) from error


def _iou(predicted: NDArray[Any], labels: NDArray[Any]) -> float:
    labeled = labels != IGNORED
    predicted, labels = predicted[labeled], labels[labeled]
    if not len(labels):
        return float("nan")
    shares = []
    for number in np.union1d(predicted, labels):
        in_prediction, in_labels = predicted == number, labels == number
        shares.append((in_prediction & in_labels).sum() / (in_prediction | in_labels).sum())
    return float(np.mean(shares))


def _difference(predictions: Any, targets: Any, name: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Predictions minus targets, and a mask of the existing targets."""
    try:
        predicted, expected = (array_of(values).astype(np.float64) for values in (predictions, targets))
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} compares numbers: {error}.") from error
    if predicted.ndim == expected.ndim + 1 and predicted.shape[-1] == 1:
        predicted = predicted[..., 0]  # [n, 1] - [n] would broadcast to [n, n]
    _check_alike(predicted, expected, name)
    has_target = ~np.isnan(expected)
    if (count := int((has_target & ~np.isfinite(predicted)).sum())) > 0:
        raise DataError(f"{count} predictions are NaN or infinite where there is a target, so {name} is undefined.")
    return predicted - expected, has_target


def _mean_of(values: NDArray[np.float64], counted: NDArray[np.bool_]) -> Scores:
    """The mean over the counted values of each example; NaN if there are none."""
    values, counted = values.reshape(len(values), -1), counted.reshape(len(values), -1)
    total = np.where(counted, values, 0.0).sum(1)
    return np.where(counted.any(1), total / np.maximum(counted.sum(1), 1), np.nan)


def _labeled(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Mask of the labels that are not -100, NaN or None."""
    if labels.dtype.kind in "iuf":
        return np.asarray((labels != IGNORED) & (labels == labels))
    if labels.dtype.kind == "O":
        return np.array([label is not None and label == label for label in labels.ravel()], dtype=bool).reshape(
            labels.shape
        )
    return np.ones(labels.shape, dtype=bool)


def _check_classes(predicted: NDArray[Any], labels: NDArray[Any]) -> None:
    """Reject pairs that can never be equal: numbers with names, and fractions with classes."""
    if _are_numbers(predicted) != _are_numbers(labels) and predicted.size and labels.size:
        kinds = ("numbers" if _are_numbers(classes) else "names" for classes in (predicted, labels))
        raise DataError("accuracy got predictions that are {} and targets that are {}: give both as numbers or both "
                        "as names.".format(*kinds))  # fmt: skip
    for name, values in (("predictions", predicted), ("targets", labels)):
        if values.dtype.kind == "f" and (values[np.isfinite(values)] % 1 != 0).any():
            raise DataError(
                f"accuracy got {name} {list(values.shape)} that are not whole numbers: give classes; logits and "
                "probabilities need a column for each class."
            )


def _are_numbers(values: NDArray[Any]) -> bool:
    """Whether classes are numbers, also in an array of objects (pandas)."""
    if values.dtype.kind == "O":
        return all(isinstance(value, (int, float, np.number)) for value in values.ravel() if value is not None)
    return values.dtype.kind in "iufb"


def _check_alike(predicted: NDArray[Any], targets: NDArray[Any], name: str) -> None:
    if predicted.shape != targets.shape:
        raise DataError(
            f"{name} got predictions {list(predicted.shape)} and targets {list(targets.shape)}; the shapes must be "
            "equal, or predictions have one more dimension, for classes, after the first."
        )
