"""The task multi-label: several labels for each example, each yes or no."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from limbeck.batch import IGNORED
from limbeck.data import Dataset
from limbeck.errors import DataError, LimbeckError
from limbeck.functional import binary_cross_entropy, binary_kl_divergence
from limbeck.losses import Loss
from limbeck.metrics.classification import evaluate
from limbeck.metrics.metric import linear_scores
from limbeck.metrics.multi_label import MULTI_LABEL_METRICS, MultiLabelPredictions
from limbeck.tasks.task import Score, Task


@final
@dataclass(frozen=True)
class MultiLabel(Task):
    """Several labels for each example: targets ``[n, labels]`` are 1 (yes), 0 (no) or -100 (unknown).

    A model has one logit for each label, and a logit above 0 is a yes. The loss is the binary cross-entropy, the
    default loss to the teacher the binary KL divergence at a temperature. The primary metric is micro F1.

    Attributes:
        labels: The number of labels; 0 before `fit`.
        names: The names of the labels; empty if they have none.

    Example:
        >>> task = MultiLabel(labels=2)
        >>> task.scores(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), torch.tensor([[1, 0], [1, 0]])).mean().round(4).item()
        0.8
    """

    labels: int = 0
    names: tuple[str, ...] = ()

    name: ClassVar[str] = "multi_label"
    title: ClassVar[str] = "Multi-label classification"
    primary: ClassVar[Score] = Score("f1_micro", "micro F1", percent=True, largest=1.0)
    headline = ("f1_micro", "mean_average_precision", "answer_agreement")
    metrics = MULTI_LABEL_METRICS
    output_title: ClassVar[str] = "labels"
    no_smoothing: ClassVar[str | None] = (
        "it spreads the weight of one class over the others, and these labels are independent of each other"
    )

    @property
    def outputs(self) -> int:
        """The number of labels."""
        if self.labels < 1:
            raise LimbeckError(
                "This task is not fitted to data yet. Type MultiLabel().fit(train), or MultiLabel(labels=20)."
            )
        return self.labels

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the labels."""
        return self.names

    def fit(self, train: Dataset, names: Sequence[str] | None = None) -> MultiLabel:
        """Return the task with the number of labels."""
        targets = _targets_of(train, "training")
        if names and len(names) != targets.shape[1]:
            raise DataError(f"There are {len(names)} names of labels, but targets of shape {list(targets.shape)}.")
        fitted = MultiLabel(int(targets.shape[1]), tuple(names or ()))
        fitted.check(train, "training")
        never = [i for i in range(fitted.labels) if not bool((targets[:, i] == 1).any())]
        if len(never) == fitted.labels:
            raise DataError("No example of the training data has a label: all targets are 0 or unknown.")
        return fitted

    def check(self, examples: Dataset, part: str) -> int:
        """Check that targets are 1, 0 or -100, and as many for each example as in the training data."""
        targets = _targets_of(examples, part)
        if targets.shape[1] != self.outputs:
            raise DataError(f"The {part} data have {targets.shape[1]} labels, the training data {self.outputs}.")
        wrong = ((targets != 0) & (targets != 1) & (targets != IGNORED)).nonzero()
        if len(wrong):
            row, column = wrong[0].tolist()
            raise DataError(
                f"Targets of several labels are 1 (yes), 0 (no) or {IGNORED} (unknown), but row {row} of the {part} "
                f"data has {targets[row, column].item()}. For numbers, type --task regression."
            )
        return int((targets != IGNORED).any(1).sum())

    def stored_targets(self, examples: Dataset) -> Tensor:
        """The labels in int64."""
        return _targets_of(examples, "data")

    def supervised_loss(self) -> Loss:
        """The binary cross-entropy."""
        return Loss(binary_cross_entropy)

    def distillation_loss(self, *, temperature: float = 1.0) -> Loss:
        """The binary KL divergence at a temperature, times T²."""
        return Loss(binary_kl_divergence, temperature=temperature)

    def measure(self, outputs: Tensor, targets: Tensor | None, teacher: Tensor | None = None) -> dict[str, float]:
        """Compute F1 (micro and macro), mean average precision, Hamming loss, NLL, and agreement with the teacher."""
        there = {"labels": targets is not None, "teacher": teacher is not None}
        names = [name for name, one in MULTI_LABEL_METRICS.items() if all(there[need] for need in one.requires)]
        answers = MultiLabelPredictions(outputs, teacher, None if targets is None else targets.long())
        return {name: metric.value for name, metric in evaluate(answers, names).items()}

    def metric_arguments(self, outputs: Tensor, targets: Tensor, teacher: Tensor | None) -> dict[str, Any]:
        """Labels (-100 for unknown), predicted labels, probabilities and logits, each ``[n, labels]``."""
        return {
            "labels": targets, "predicted": (outputs > 0).long(), "probabilities": outputs.double().sigmoid(),
            "logits": outputs, "teacher_logits": teacher,
        }  # fmt: skip

    def scores(self, outputs: Tensor, targets: Tensor) -> Shaped[np.ndarray, " examples"]:
        """The linearized micro F1 of each example with a known label."""
        known = targets != IGNORED
        predicted, true = (outputs > 0) & known, (targets == 1) & known
        rows = known.any(1).numpy()
        hits = 2 * (predicted & true).sum(1).double().numpy()[rows]
        total = hits + (predicted ^ true).sum(1).double().numpy()[rows]
        value = float(hits.sum() / total.sum()) if total.sum() else float("nan")
        return linear_scores(value, hits[:, None], total[:, None])


def _targets_of(examples: Dataset, part: str) -> Tensor:
    targets = examples.targets
    if targets is None:
        raise DataError(f"The {part} data have no targets: a task of several labels needs 0 or 1 for each label.")
    if targets.ndim != 2:
        raise DataError(f"Targets of several labels have the shape [examples, labels]; got {list(targets.shape)}.")
    targets = targets.cpu()
    if targets.is_floating_point():
        whole = targets.isnan() | ((targets == targets.round()) & ~targets.isinf())
        if not bool(whole.all()):
            row, column = (~whole).nonzero()[0].tolist()
            raise DataError(
                f"Targets of several labels are 1 (yes), 0 (no) or {IGNORED} (unknown), but row {row} of the {part} "
                f"data has {targets[row, column].item():g}. For numbers, type --task regression."
            )
        targets = torch.where(targets.isnan(), torch.full_like(targets, IGNORED), targets)
    return targets.long()
