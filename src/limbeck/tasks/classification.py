"""The task classification: one class for each example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from limbeck.batch import IGNORED, Batch
from limbeck.data import Dataset
from limbeck.errors import DataError, LimbeckError
from limbeck.functional import cross_entropy, kl_divergence, label_smoothing
from limbeck.losses import Loss
from limbeck.metrics.classification import METRICS, correctness, evaluate
from limbeck.metrics.metric import labeled_rows
from limbeck.metrics.predictions import Predictions, flatten_positions
from limbeck.tasks.task import Evaluation, EvaluationState, Score, Task, join_outputs, join_targets


@final
@dataclass(frozen=True)
class Classification(Task):
    """One class for each example: labels are class indices ``[n]``, and -100 means no label.

    The loss is the cross-entropy, the default loss to the teacher the KL divergence at a temperature.

    Attributes:
        classes: The number of classes; 0 before `fit`.
        names: The names of the classes; empty if they have none.

    Example:
        >>> task = Classification(classes=2)
        >>> task.evaluate(torch.nn.Identity(), [Batch(torch.eye(2), labels=torch.tensor([0, 0]))]).measures["accuracy"]
        0.5
    """

    classes: int = 0
    names: tuple[str, ...] = ()

    name: ClassVar[str] = "classification"
    title: ClassVar[str] = "Classification"
    primary: ClassVar[Score] = Score("accuracy", "accuracy", percent=True, largest=1.0)
    headline = ("accuracy", "nll", "agreement")
    metrics = METRICS
    target_field: ClassVar[str] = "labels"
    output_title: ClassVar[str] = "classes"
    distance_title: ClassVar[str] = "KL divergence"

    @property
    def outputs(self) -> int:
        """The number of classes."""
        if self.classes < 1:
            raise LimbeckError(
                "This task is not fitted to data yet. Type Classification().fit(train) or Classification(classes=10)."
            )
        return self.classes

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.names

    def fit(self, train: Dataset, names: Sequence[str] | None = None) -> Classification:
        """Return the task with the number of classes: that of the names, or the largest label plus one."""
        classes = len(names) if names else count_classes(train.labels)
        if classes < 2:
            raise DataError("The data have one class: there is nothing to tell apart.")
        return Classification(classes, tuple(names or ()))

    def check(self, examples: Dataset, part: str) -> int:
        """Check that every label is a class of the training data."""
        return check_class_labels(examples.labels, part, self.outputs)

    def stored_targets(self, examples: Dataset) -> Tensor:
        """The labels."""
        labels = examples.labels
        return torch.full((len(examples),), IGNORED) if labels is None else labels.cpu()

    def supervised_loss(self) -> Loss:
        """The cross-entropy."""
        return Loss(cross_entropy)

    def distillation_loss(self, *, temperature: float = 1.0) -> Loss:
        """The KL divergence at a temperature, times T²."""
        return Loss(kl_divergence, temperature=temperature)

    def smoothed_loss(self, smoothing: float) -> Loss:
        """The cross-entropy of smoothed labels."""
        return Loss(label_smoothing, smoothing=smoothing)

    def measure(self, outputs: Tensor, targets: Tensor | None, teacher: Tensor | None = None) -> dict[str, float]:
        """Compute all metrics of a classifier that labels and teacher allow."""
        return measure_classes(_predictions(outputs, targets, teacher))

    def scores(self, outputs: Tensor, targets: Tensor) -> Shaped[np.ndarray, " examples"]:
        """1 for each labeled example that is right, 0 for the others."""
        return np.asarray(correctness(_predictions(outputs, targets, None)).numpy())

    def distance(self, logits: Tensor, reference: Tensor) -> float:
        """The mean KL divergence from the reference, in nats."""
        return evaluate(Predictions(logits.flatten(0, -2), reference.flatten(0, -2)), ["kl_to_teacher"])[
            "kl_to_teacher"
        ].value

    def metric_arguments(self, outputs: Tensor, targets: Tensor, teacher: Tensor | None) -> dict[str, Any]:
        """Labels, predicted classes, probabilities and logits of the labeled rows; teacher_logits, and all together."""
        rows = labeled_rows(_predictions(outputs, targets, teacher))
        return {
            "labels": rows.labels, "predicted": rows.student.argmax(1), "logits": rows.student,
            "probabilities": rows.student.double().softmax(1), "teacher_logits": rows.teacher, "predictions": rows,
        }  # fmt: skip

    def example_outputs(self, targets: Tensor) -> Tensor:
        """Random logits, a row for each label."""
        return torch.randn(targets.numel(), self.outputs)

    def open_state(self, teacher: Tensor | None = None) -> EvaluationState:
        """Start an evaluation. With an output at every position, each position is a row."""
        return _Rows(teacher)


def _predictions(outputs: Tensor, targets: Tensor | None, teacher: Tensor | None) -> Predictions:
    return Predictions(outputs, teacher, None if targets is None else targets.flatten())


def measure_classes(predictions: Predictions, names: Sequence[str] = tuple(METRICS)) -> dict[str, float]:
    """Compute the named metrics of classifiers that need nothing which is missing."""
    there = {"labels": predictions.labels is not None, "teacher": predictions.teacher is not None}
    possible = [name for name in names if all(there[need] for need in METRICS[name].requires)]
    return {name: metric.value for name, metric in evaluate(predictions, possible).items()}


class _Rows(EvaluationState):
    def __init__(self, teacher: Tensor | None) -> None:
        self._teacher = teacher
        self._outputs: list[Tensor] = []
        self._labels: list[Tensor | None] = []

    def update(self, logits: Tensor, batch: Batch) -> None:
        rows = flatten_positions(logits, batch)
        self._outputs.append(rows.student)
        self._labels.append(rows.labels)

    def compute(self) -> Evaluation:
        outputs, labels = join_outputs(self._outputs), join_targets(self._labels)
        predictions = Predictions(outputs, self._teacher, labels)
        scores = np.empty(0) if labels is None else np.asarray(correctness(predictions).numpy())
        return Evaluation(measure_classes(predictions), scores, outputs)


def count_classes(labels: Tensor | None) -> int:
    """The largest label plus one.

    Raises:
        DataError: If there is no label.
    """
    if labels is None or not bool((labels != IGNORED).any()):
        raise DataError("The training data have no labels, so the number of classes is not known.")
    return int(labels.max()) + 1


def check_class_labels(labels: Tensor | None, part: str, classes: int) -> int:
    """Check that labels are class indices below `classes`; returns how many examples have a label.

    Raises:
        DataError: With the largest label.
    """
    if labels is None:
        return 0
    labeled = labels != IGNORED
    if bool(labeled.any()) and int(labels.max()) >= classes:
        raise DataError(
            f"Label {int(labels.max())} of the {part} data is no class of the training data (0 to {classes - 1})."
        )
    return int(labeled.flatten(1).any(1).sum() if labels.ndim > 1 else labeled.sum())
