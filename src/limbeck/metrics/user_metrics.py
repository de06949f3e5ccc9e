"""Metrics from a function in a user's Python file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from limbeck.errors import LimbeckError, unknown_name_error
from limbeck.metrics.classification import METRICS
from limbeck.metrics.metric import Metric, labeled_rows
from limbeck.metrics.predictions import Predictions
from limbeck.models import UserFile

_ARGUMENTS = (
    "labels", "targets", "predicted", "outputs", "probabilities", "logits", "teacher", "teacher_logits", "predictions",
)  # fmt: skip
Arguments = Predictions | Mapping[str, Any]
"""Predictions of a classifier, or the arguments of a metric by name."""


def open_metrics(names: Sequence[str], known: Mapping[str, Any] = METRICS) -> dict[str, Callable[[Arguments], float]]:
    """Load metrics from names such as ``my.py:function``; the keys are the names of the functions.

    The names of its arguments select what a function gets: ``labels`` (class numbers ``[n]``), ``predicted``
    (the class of the largest logit, ``[n]``), ``probabilities`` and ``logits`` (``[n, classes]``), ``teacher_logits``,
    or ``predictions`` (`Predictions`). All are CPU tensors of the rows that have a label, and work with scikit-learn's
    metrics. The function returns a number or a `Metric`. Other tasks have other arguments, such as ``targets`` and
    ``outputs`` of regression (`limbeck.tasks.Task.metric_arguments`).

    Args:
        names: The names.
        known: The metrics of the task, whose names are taken.

    Raises:
        LimbeckError: If a file or function is missing, an argument is unknown, or two metrics have the same name.
    """
    opened: dict[str, Callable[[Arguments], float]] = {}
    for name in names:
        own = UserFile.parse(name)
        if own is None or own.weights is not None:
            raise LimbeckError(
                f"The metric {name!r} is not a function in a Python file: use metrics=[my.py:function]. "
                f"Always computed: {', '.join(known)}."
            )
        if own.function in known or own.function in opened:
            raise LimbeckError(f"There is already a metric {own.function!r}. Rename the function of {name}.")
        function = own.load()
        for argument in inspect.signature(function).parameters.values():
            open_ended = argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD)
            if argument.name not in _ARGUMENTS and argument.default is argument.empty and not open_ended:
                raise unknown_name_error(f"argument of the metric {name}", argument.name, _ARGUMENTS)
        opened[own.function] = _Metric(name, function)
    return opened


def evaluate_metrics(metrics: Mapping[str, Callable[[Arguments], float]], predictions: Arguments) -> dict[str, float]:
    """Compute the value of each metric.

    Raises:
        LimbeckError: If a metric fails, or does not return a number.
    """
    return {name: metric(predictions) for name, metric in metrics.items()}


class _Metric:
    """A user's function, called with the arguments that it names."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._name, self._function = name, function
        parameters = inspect.signature(function).parameters
        self._parameters = [argument for argument in _ARGUMENTS if argument in parameters]

    def __call__(self, predictions: Arguments) -> float:
        # Copies: a function that changes its arguments must not change the data and the other metrics.
        if isinstance(predictions, Predictions):
            student, *others = predictions
            copies = labeled_rows(
                Predictions(student.clone(), *(None if tensor is None else tensor.clone() for tensor in others))
            )
            arguments = {name: _argument(name, copies) for name in self._parameters}
        else:
            for name in self._parameters:
                if name not in predictions:
                    raise unknown_name_error(f"argument of the metric {self._name} for this task", name, predictions)
            arguments = {name: _copy(predictions[name]) for name in self._parameters}
        try:
            value = self._function(**arguments)
        except Exception as error:  # a user's function can raise any exception
            raise LimbeckError(f"The metric {self._name} failed: {type(error).__name__}: {error}") from error
        if isinstance(value, Metric):
            return value.value
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise LimbeckError(
                f"The metric {self._name} returned a {type(value).__name__}; it must return a number."
            ) from error


def _copy(value: Any) -> Any:
    if isinstance(value, Predictions):
        return Predictions(*map(_copy, value))
    return value.clone() if isinstance(value, torch.Tensor) else value


def _argument(name: str, predictions: Predictions) -> Any:
    if name == "predictions":
        return predictions
    if name == "labels":
        return predictions.labels
    if name == "predicted":
        return predictions.student.argmax(1)
    if name == "probabilities":
        return torch.softmax(predictions.student.double(), 1)
    return predictions.teacher if name == "teacher_logits" else predictions.student
