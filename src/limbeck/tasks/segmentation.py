"""The task segmentation: a class for each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int, Shaped
from torch import Tensor

from limbeck.batch import IGNORED, Batch
from limbeck.data import Dataset
from limbeck.errors import DataError, LimbeckError
from limbeck.functional import cross_entropy, kl_divergence, label_smoothing
from limbeck.losses import Loss
from limbeck.metrics.classification import evaluate
from limbeck.metrics.metric import linear_scores
from limbeck.metrics.segmentation import SEGMENTATION_METRICS, PixelCounts, count_pixels
from limbeck.tasks.classification import check_class_labels, count_classes
from limbeck.tasks.task import Evaluation, EvaluationState, Score, Task, join_outputs

_FAR = 32
"""A distance of the nearest two values that classes do not have, even where a small sample lacks most of them."""
_IGNORED_BYTE = 255
"""The class of a pixel without a label in stored targets, as in the masks of PASCAL VOC."""


@final
@dataclass(frozen=True)
class Segmentation(Task):
    """A class for each pixel: labels ``[n, height, width]`` are class indices, and -100 means no label.

    A model has logits ``[batch, classes, height, width]``. Losses are those of classification at each pixel. The
    primary metric is the mean IoU over classes, with intersection and union counted over all images. Evaluations hold
    the predicted classes (one byte for each pixel) and counts, never the logits of all images.

    Attributes:
        classes: The number of classes; 0 before `fit`.
        names: The names of the classes; empty if they have none.

    Example:
        >>> task = Segmentation(classes=2)
        >>> logits = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])  # one image of 1x2 pixels
        >>> batch = Batch(logits, labels=torch.tensor([[[0, 0]]]))
        >>> task.evaluate(torch.nn.Identity(), [batch]).measures["pixel_accuracy"]
        0.5
    """

    classes: int = 0
    names: tuple[str, ...] = ()

    name: ClassVar[str] = "segmentation"
    title: ClassVar[str] = "Segmentation"
    primary: ClassVar[Score] = Score("miou", "mean IoU", percent=True, largest=1.0)
    headline = ("miou", "pixel_accuracy", "pixel_agreement")
    metrics = SEGMENTATION_METRICS
    target_field: ClassVar[str] = "labels"
    classes_dim: ClassVar[int] = 1
    output_title: ClassVar[str] = "classes"

    @property
    def outputs(self) -> int:
        """The number of classes."""
        if self.classes < 1:
            raise LimbeckError(
                "This task is not fitted to data yet. Type Segmentation().fit(train), or Segmentation(classes=21)."
            )
        return self.classes

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.names

    def fit(self, train: Dataset, names: Sequence[str] | None = None) -> Segmentation:
        """Return the task with the number of classes: that of the names, or the largest label plus one."""
        labels = _labels_of(train, "training")
        classes = len(names) if names else count_classes(labels)
        if not names:
            _check_values(labels)
        if classes < 2:
            raise DataError("The data have one class: there is nothing to tell apart.")
        if classes > _IGNORED_BYTE:
            raise DataError(
                f"Masks have {classes} classes; at most {_IGNORED_BYTE} are possible. Are they numbers of objects?"
            )
        return Segmentation(classes, tuple(names or ()))

    def check(self, examples: Dataset, part: str) -> int:
        """Check that labels are maps of classes of the training data."""
        return check_class_labels(_labels_of(examples, part), part, self.outputs)

    def stored_targets(self, examples: Dataset) -> Tensor:
        """The masks as bytes; 255 for no label."""
        return _as_bytes(_labels_of(examples, "data"))

    def supervised_loss(self) -> Loss:
        """The cross-entropy of each pixel."""
        return Loss(cross_entropy, classes=self.classes_dim)

    def distillation_loss(self, *, temperature: float = 1.0) -> Loss:
        """The KL divergence of each pixel at a temperature, times T²."""
        return Loss(kl_divergence, classes=self.classes_dim, temperature=temperature)

    def smoothed_loss(self, smoothing: float) -> Loss:
        """The cross-entropy of smoothed labels of each pixel."""
        return Loss(label_smoothing, classes=self.classes_dim, smoothing=smoothing)

    def keep(self, logits: Tensor) -> Tensor:
        """The predicted class of each pixel, as bytes ``[n, height, width]``."""
        if logits.ndim != 4:
            raise DataError(f"The logits must be [batch, classes, height, width]; got {list(logits.shape)}.")
        return logits.detach().argmax(1).to(torch.uint8).cpu()

    def measure(self, outputs: Tensor, targets: Tensor | None, teacher: Tensor | None = None) -> dict[str, float]:
        """Compute mean IoU and pixel accuracy, and the agreement with the teacher, from predicted classes."""
        counts = None
        for name, other in (("Masks", targets), ("The teacher's predictions", teacher)):
            if other is not None:
                _check_shape(name, other, outputs)
        if targets is not None:
            counts = count_pixels(outputs, targets, self.outputs, ignored=_IGNORED_BYTE)
        same = None if teacher is None else (int((outputs == teacher).sum()), outputs.numel())
        return _measure(PixelCounts(counts, teacher=same))

    def scores(self, outputs: Tensor, targets: Tensor) -> Shaped[np.ndarray, " examples"]:
        """The linearized mean IoU of each image with a labeled pixel."""
        _check_shape("Masks", targets, outputs)
        return _scores(count_pixels(outputs, targets, self.outputs, ignored=_IGNORED_BYTE))

    def example_outputs(self, targets: Tensor) -> Tensor:
        """The masks themselves."""
        return targets.clamp_max(self.outputs - 1)

    def open_state(self, teacher: Tensor | None = None) -> EvaluationState:
        """Start an evaluation that counts pixels batch by batch."""
        return _PixelEvaluation(self, teacher)


class _PixelEvaluation(EvaluationState):
    """Counts by image and class, added batch by batch."""

    def __init__(self, task: Segmentation, teacher: Tensor | None) -> None:
        self._task, self._teacher = task, teacher
        self._outputs: list[Tensor] = []
        self._counts: list[Tensor] = []
        self._same = 0
        self._log_loss = 0.0

    def update(self, logits: Tensor, batch: Batch) -> None:
        """Add the pixels of one batch."""
        predicted = self._task.keep(logits)
        start = sum(map(len, self._outputs))
        self._outputs.append(predicted)
        if self._teacher is not None:
            teacher = self._teacher[start : start + len(predicted)]
            _check_shape("The teacher's predictions", teacher, predicted)
            self._same += int((predicted == teacher).sum())
        if batch.labels is None:
            return
        labels = batch.labels.cpu()
        _check_shape("Masks", labels, predicted)
        check_class_labels(labels, "given", logits.shape[1])
        if batch.mask is not None:
            labels = labels.masked_fill(~batch.mask.cpu().bool(), IGNORED)
        self._counts.append(count_pixels(predicted, _as_bytes(labels), self._task.outputs, ignored=_IGNORED_BYTE))
        wide = logits.detach().cpu().double()
        self._log_loss += float(F.cross_entropy(wide, labels, reduction="sum", ignore_index=IGNORED))

    def compute(self) -> Evaluation:
        """Compute all metrics from the counts."""
        outputs = join_outputs(self._outputs)
        counts = torch.cat(self._counts) if self._counts else None
        same = None if self._teacher is None else (self._same, outputs.numel())
        log_loss = None if counts is None else self._log_loss
        scores = np.empty(0) if counts is None else _scores(counts)
        return Evaluation(_measure(PixelCounts(counts, log_loss, same)), scores, outputs)


def _check_values(labels: Tensor) -> None:
    """Refuse masks of one class, and gray values such as 0, 127, 254 that are no numbers of classes."""
    values = [int(value) for value in labels.unique() if value != IGNORED]
    ignored = f" ({_IGNORED_BYTE} means no label)" if bool((labels == IGNORED).any()) else ""
    if len(values) < 2:
        listed = ", ".join(map(str, values)) or "none"
        raise DataError(
            f"The masks have one class, so there is nothing to tell apart. Values found: {listed}{ignored}. Classes "
            "are numbered 0, 1, 2, ..."
        )
    if min(b - a for a, b in pairwise(values)) >= _FAR:
        listed, numbers = ", ".join(map(str, values)), ", ".join(map(str, range(len(values))))
        raise DataError(
            f"Masks are numbers of classes; {len(values)} values found: {listed}{ignored}: renumber as {numbers}. If "
            "these are the numbers of classes, name all classes with --set 'data.class_names=[...]'."
        )


def _measure(counts: PixelCounts) -> dict[str, float]:
    names = [
        name
        for name, metric in SEGMENTATION_METRICS.items()
        if all(getattr(counts, need) is not None for need in metric.requires)
    ]
    return {name: metric.value for name, metric in evaluate(counts, names).items()}


def _scores(counts: Int[Tensor, "n 3 classes"]) -> Shaped[np.ndarray, " examples"]:
    labeled = counts[counts[:, 2].sum(1) > 0].double().numpy()
    intersection, union = labeled[:, 0], labeled[:, 1] + labeled[:, 2] - labeled[:, 0]
    return linear_scores(evaluate(PixelCounts(counts), ["miou"])["miou"].value, intersection, union)


def _check_shape(name: str, part: Tensor, predicted: Tensor) -> None:
    if part.shape != predicted.shape:
        raise DataError(f"{name} have the shape {list(part.shape)}, predictions {list(predicted.shape)}.")


def _as_bytes(labels: Int[Tensor, "n height width"]) -> Tensor:
    return labels.masked_fill(labels == IGNORED, _IGNORED_BYTE).to(torch.uint8)


def _labels_of(examples: Dataset, part: str) -> Tensor:
    labels = examples.labels
    if labels is None:
        raise DataError(f"The {part} data have no masks: segmentation needs a class for each pixel.")
    if labels.ndim != 3:
        raise DataError(f"Masks have the shape [images, height, width]; got {list(labels.shape)}.")
    return labels.cpu()
