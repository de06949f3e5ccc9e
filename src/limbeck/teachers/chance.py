"""Compares a teacher with chance and with always predicting the most frequent class."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from limbeck.batch import IGNORED, LOGITS, Batch, Outputs
from limbeck.errors import LimbeckWarning
from limbeck.top_k_logits import TopKLogits

_FEWEST, _ENOUGH = 100, 1000
"""Labeled examples: below the first number nothing is reported; after the second one the check ends."""


class Chance(NamedTuple):
    """The accuracy of guessing.

    Attributes:
        share: The mean accuracy of random guessing: one divided by the number of classes.
        reach: The accuracy that guessing may reach: `share` plus two standard errors, or the share of the most
            frequent class where that is larger.
        most_frequent: The share of the most frequent class, which is the accuracy of always predicting it; 0 where it
            is not known.
    """

    share: float
    reach: float
    most_frequent: float = 0.0

    @property
    def sentence(self) -> str:
        """The accuracy of guessing in words, without a full stop."""
        if self.most_frequent >= self.reach:
            return f"always predicting the most frequent class gives {100 * self.most_frequent:.1f} %"
        return f"chance gives {100 * self.share:.1f} %, up to {100 * self.reach:.1f} % on so few examples"


def compute_chance(classes: int, examples: int, *, most_frequent: float = 0.0) -> Chance:
    """The accuracy of guessing on a number of examples.

    Args:
        classes: The number of classes.
        examples: The number of labeled examples.
        most_frequent: The share of the most frequent class among them.

    Example:
        >>> round(compute_chance(10, 900).reach, 6)
        0.12
        >>> compute_chance(2, 900, most_frequent=0.76).reach
        0.76
    """
    share = 1.0 / classes
    blind = min(share + 2.0 * (share * (1.0 - share) / max(examples, 1)) ** 0.5, 1.0)
    return Chance(share, max(blind, most_frequent), most_frequent)


def most_frequent_share(labels: Tensor) -> float:
    """The share of the most frequent class among the labeled examples; NaN where none is labeled.

    Example:
        >>> most_frequent_share(torch.tensor([0, 1, 1, 1, -100]))
        0.75
    """
    labeled = labels[labels != IGNORED]
    return float(labeled.long().bincount().max()) / labeled.numel() if labeled.numel() else float("nan")


class ChanceCheck:
    """Compares a teacher's outputs with the labels, batch by batch, and warns once if it is no better than chance.

    Args:
        classes: The dimension of the logits that holds the classes.
    """

    def __init__(self, *, classes: int = -1) -> None:
        self._axis = classes
        self._classes = self._correct = self._count = 0
        self._counts = torch.zeros(0, dtype=torch.long)
        self._is_done = False

    def update(self, batch: Batch, outputs: Outputs) -> None:
        """Add a batch. Batches without labels, and outputs without enough classes, are skipped."""
        if self._count >= _ENOUGH or batch.labels is None or batch.mixed or batch.labels.is_floating_point():
            return
        guess = _predict(outputs, self._axis)
        if guess is None or guess[0].shape != batch.labels.shape:
            return
        predicted, self._classes = guess
        labels = batch.labels.to(predicted.device)
        labeled = labels != IGNORED
        self._correct += int((predicted == labels)[labeled].sum())
        self._count += int(labeled.sum())
        counts = labels[labeled].cpu().bincount(minlength=max(self._classes, len(self._counts)))
        self._counts = counts.index_add(0, torch.arange(len(self._counts)), self._counts)
        if self._count >= _ENOUGH:
            self.warn_if_not_better()

    def warn_if_not_better(self) -> None:
        """Warn once, if there were enough examples and the teacher is no better than chance."""
        if self._is_done or self._count < _FEWEST:
            return
        self._is_done = True
        accuracy, most = self._correct / self._count, float(self._counts.max()) / self._count
        chance = compute_chance(self._classes, self._count, most_frequent=most)
        if accuracy <= chance.reach and accuracy < 1.0:  # with a single class, every accuracy is 1
            message = (
                f"The teacher's accuracy is {100 * accuracy:.1f} % on {self._count:,} examples, and {chance.sentence}. "
                "Its outputs may be useless. Check the input normalization (preprocess=) and the label order."
            )
            warnings.warn(message, LimbeckWarning, stacklevel=3)


def _predict(outputs: Outputs, axis: int) -> tuple[Tensor, int] | None:
    """The most likely class of each row, -1 where there is NaN, and the number of classes; None if it is not known."""
    if LOGITS in outputs:
        logits = outputs[LOGITS].movedim(axis, -1)
        # argmax takes NaN for the largest: a teacher with only NaN would be right wherever the label is 0.
        return logits.argmax(-1).masked_fill(logits.isnan().any(-1), -1), logits.shape[-1]
    partial = outputs.partial.get(LOGITS)
    if not isinstance(partial, TopKLogits):
        return None
    best = partial.depths.argmax(-1, keepdim=True)  # not in a row of all classes, which may be a whole vocabulary
    return partial.ids.gather(-1, best)[..., 0], partial.classes
