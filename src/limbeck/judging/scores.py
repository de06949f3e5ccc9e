"""Scores of single examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.batch import IGNORED
from limbeck.errors import DataError, LimbeckError, unknown

Scores = NDArray[np.float64]
"""One number for each example, ``[n]``; NaN for an example that does not count."""


@dataclass(frozen=True)
class ScoreFunction:
    """A score for each example, and how it is spoken of.

    Attributes:
        name: ``accuracy``, ``squared_error``, ...
        score: Predictions and targets -> `Scores`.
        higher_is_better: Which way is better; None for given scores, of which only their owner knows it.
        largest: The greatest difference that one example can make; infinite where there is no bound.
        percent: Whether it is a fraction that people read in percent.
    """

    name: str
    score: Callable[[Any, Any], Scores]
    higher_is_better: bool | None
    largest: float = float("inf")
    percent: bool = False


def open_metric(metric: str | Callable[[Any, Any], Any], *, higher_is_better: bool | None) -> ScoreFunction:
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
    known = METRICS[metric] if isinstance(metric, str) else None
    if known is not None and known.higher_is_better is not None:
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
    if known is not None:
        return replace(known, higher_is_better=higher_is_better)
    if isinstance(metric, str) or not callable(metric):
        raise LimbeckError(f"metric={metric!r} is no name and no function; names are {', '.join(METRICS)}.")
    return ScoreFunction(getattr(metric, "__name__", "score"), metric, higher_is_better)


def score_accuracy(predictions: Any, targets: Any) -> Scores:
    """1 where the predicted class is the target; logits or probabilities ``[n, classes]`` give the largest's class."""
    given, labels = array_of(predictions), array_of(targets)
    if given.ndim == labels.ndim + 1 and given.dtype.kind == "f":
        if given.shape[1] == 1:
            raise DataError("accuracy got one logit for each example: give classes, or a column for each class.")
        given = np.where(np.isnan(given).any(1), -1, given.argmax(1))
    _check_alike(given, labels, "accuracy")
    known = _labeled(labels)
    _check_classes(given, labels[known])
    return _mean_of((given == labels).astype(np.float64), known)


def score_iou(predictions: Any, targets: Any) -> Scores:
    r"""The mean over classes of intersection over union, of each picture.

    For class c, :math:`|P_c \cap T_c| / |P_c \cup T_c|` over the pixels that have a label; the mean is over the
    classes that the prediction or the target of that picture holds. Maps are ``[n, height, width]`` of class numbers,
    or logits ``[n, classes, height, width]``.
    """
    given, labels = array_of(predictions), array_of(targets)
    if given.ndim == labels.ndim + 1:
        wrong = np.isnan(given).any(1) if given.dtype.kind == "f" else False
        given = np.where(wrong, -1, given.argmax(1))
    _check_alike(given, labels, "iou")
    if labels.ndim < 2 or labels.dtype.kind not in "iub" or given.dtype.kind not in "iub":
        raise DataError(f"iou compares maps of class numbers [n, height, width]; got targets {list(labels.shape)}.")
    return np.array([_iou(one.ravel(), other.ravel()) for one, other in zip(given, labels, strict=True)])


def score_squared_error(predictions: Any, targets: Any) -> Scores:
    """The squared error of each example, the mean over its outputs; a NaN target does not count."""
    apart, known = _difference(predictions, targets, "squared_error")
    return _mean_of(apart**2, known)


def score_absolute_error(predictions: Any, targets: Any) -> Scores:
    """The absolute error of each example, the mean over its outputs; a NaN target does not count."""
    apart, known = _difference(predictions, targets, "absolute_error")
    return _mean_of(np.abs(apart), known)


def score_given(predictions: Any, targets: Any) -> Scores:
    """Scores that are given in the place of predictions."""
    return array_of(predictions).astype(np.float64)


_OTHER_NAMES = {"mse": "squared_error", "mae": "absolute_error", "miou": "iou", "acc": "accuracy", "error": "accuracy"}
"""What other libraries call them, for the sentence that names the nearest."""
METRICS: dict[str, ScoreFunction] = {
    "accuracy": ScoreFunction("accuracy", score_accuracy, True, largest=1.0, percent=True),
    "iou": ScoreFunction("iou", score_iou, True, largest=1.0, percent=True),
    "squared_error": ScoreFunction("squared_error", score_squared_error, False),
    "absolute_error": ScoreFunction("absolute_error", score_absolute_error, False),
    "score": ScoreFunction("score", score_given, None),
}
"""Metrics by name; ``score`` takes scores as they are."""


def array_of(values: Any) -> NDArray[Any]:
    """A numpy array of a tensor, array or list.

    Raises:
        DataError: If they have no common shape.
    """
    detached = values.detach().cpu() if hasattr(values, "detach") else values
    if str(getattr(detached, "dtype", "")) == "torch.bfloat16":
        detached = detached.float()  # numpy has no bfloat16; wider ones keep their range
    try:
        return np.asarray(detached)
    except (TypeError, ValueError) as error:
        raise DataError(f"A {type(values).__name__} is no array of numbers or names: {error}.") from error


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


def _difference(predictions: Any, targets: Any, name: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Predictions less targets, and where there is a target."""
    try:
        given, wanted = (array_of(one).astype(np.float64) for one in (predictions, targets))
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} compares numbers: {error}.") from error
    if given.ndim == wanted.ndim + 1 and given.shape[-1] == 1:
        given = given[..., 0]  # [n, 1] beside [n] would otherwise be spread to [n, n]
    _check_alike(given, wanted, name)
    known = ~np.isnan(wanted)
    if (wrong := int((known & ~np.isfinite(given)).sum())) > 0:
        raise DataError(f"{wrong} predictions are NaN or infinite where there is a target: {name} has no value there.")
    return given - wanted, known


def _mean_of(values: NDArray[np.float64], known: NDArray[np.bool_]) -> Scores:
    """The mean over what is known of each example; NaN where nothing is."""
    values, known = values.reshape(len(values), -1), known.reshape(len(values), -1)
    total = np.where(known, values, 0.0).sum(1)
    return np.where(known.any(1), total / np.maximum(known.sum(1), 1), np.nan)


def _labeled(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Where there is a label: neither -100, nor NaN, nor None."""
    if labels.dtype.kind in "iuf":
        return np.asarray((labels != IGNORED) & (labels == labels))
    if labels.dtype.kind == "O":
        return np.array([one is not None and one == one for one in labels.ravel()], dtype=bool).reshape(labels.shape)
    return np.ones(labels.shape, dtype=bool)


def _check_classes(given: NDArray[Any], labels: NDArray[Any]) -> None:
    """Refuse what would count as wrong throughout: numbers beside names, and probabilities beside classes."""
    if _are_numbers(given) != _are_numbers(labels) and given.size and labels.size:
        kinds = ("numbers" if _are_numbers(one) else "names" for one in (given, labels))
        raise DataError("accuracy compares classes that are {} with targets that are {}: give both as numbers or both "
                        "as names.".format(*kinds))  # fmt: skip
    for name, values in (("predictions", given), ("targets", labels)):
        if values.dtype.kind == "f" and (values[np.isfinite(values)] % 1 != 0).any():
            raise DataError(
                f"accuracy got {name} {list(values.shape)} that are no whole numbers: give classes; logits and "
                "probabilities have a column for each class."
            )


def _are_numbers(values: NDArray[Any]) -> bool:
    """Whether classes are numbers, an array of Python's objects included, as pandas has them."""
    if values.dtype.kind == "O":
        return all(isinstance(one, (int, float, np.number)) for one in values.ravel() if one is not None)
    return values.dtype.kind in "iufb"


def _check_alike(given: NDArray[Any], targets: NDArray[Any], name: str) -> None:
    if given.shape != targets.shape:
        raise DataError(
            f"{name} compares predictions {list(given.shape)} with targets {list(targets.shape)}; they have to be of "
            "one shape, or predictions may have one dimension more, of logits, after the first."
        )
