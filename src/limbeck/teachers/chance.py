"""Whether a teacher is better than chance or than always guessing the most frequent class."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from limbeck.batch import IGNORED, LOGITS, Batch, Outputs
from limbeck.errors import LimbeckWarning
from limbeck.partial_logits import TopKLogits

_FEWEST, _ENOUGH = 100, 1000
"""Labeled examples: on fewer nothing can be said, and on so many enough was seen."""


class Chance(NamedTuple):
    """What guessing gives.

    Attributes:
        share: Of the examples that blind guessing gets right, on average: one in as many as there are classes.
        reach: What guessing may come to: two standard errors more on so few examples, or always answering the most
            frequent class where that is right more often.
        most_frequent: The share of the most frequent class, which is what always answering it gets right; 0 where
            nobody counted.
    """

    share: float
    reach: float
    most_frequent: float = 0.0

    @property
    def sentence(self) -> str:
        """What guessing gives, for people, without a full stop."""
        if self.most_frequent >= self.reach:
            return f"always answering the most frequent class gives {100 * self.most_frequent:.1f} %"
        return f"chance alone gives {100 * self.share:.1f} %, up to {100 * self.reach:.1f} % on so few"


def compute_chance(classes: int, examples: int, *, most_frequent: float = 0.0) -> Chance:
    """What guessing gives on so many examples.

    Args:
        classes: How many there are.
        examples: How many are labeled.
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
    known = labels[labels != IGNORED]
    return float(known.long().bincount().max()) / known.numel() if known.numel() else float("nan")


class ChanceCheck:
    """A teacher's answers beside the labels, as they come; says once, in a warning, if it is no better than chance.

    Args:
        classes: Which dimension of the logits holds the classes.
    """

    def __init__(self, *, classes: int = -1) -> None:
        self._axis = classes
        self._classes = self._right = self._seen = 0
        self._counts = torch.zeros(0, dtype=torch.long)
        self._said = False

    def update(self, batch: Batch, answer: Outputs) -> None:
        """One batch more; an answer of which too little was kept, or a batch without labels, counts for nothing."""
        if self._seen >= _ENOUGH or batch.labels is None or batch.mixed or batch.labels.is_floating_point():
            return
        logits = _logits(answer, self._axis)
        if logits is None or logits.shape[:-1] != batch.labels.shape:
            return
        labels = batch.labels.to(logits.device)
        known = labels != IGNORED
        self._classes = logits.shape[-1]
        # NaN counts as the largest: a teacher of nothing else would be right wherever the label is 0.
        said = logits.argmax(-1).masked_fill(logits.isnan().any(-1), -1)
        self._right += int((said == labels)[known].sum())
        self._seen += int(known.sum())
        counts = labels[known].cpu().bincount(minlength=max(self._classes, len(self._counts)))
        self._counts = counts.index_add(0, torch.arange(len(self._counts)), self._counts)
        if self._seen >= _ENOUGH:
            self.warn_if_not_better()

    def warn_if_not_better(self) -> None:
        """Warn, if it is not done already and enough was seen."""
        if self._said or self._seen < _FEWEST:
            return
        self._said = True
        found, most = self._right / self._seen, float(self._counts.max()) / self._seen
        chance = compute_chance(self._classes, self._seen, most_frequent=most)
        if found <= chance.reach and found < 1.0:  # data of one class say nothing of who is always right
            sentence = (
                f"The teacher is right about {100 * found:.1f} % of {self._seen:,} examples, and {chance.sentence}: "
                "its answers may not be worth keeping. Was it trained with another input normalization "
                "(preprocess=) or "
                "label order?"
            )
            warnings.warn(sentence, LimbeckWarning, stacklevel=3)


def _logits(answer: Outputs, axis: int) -> Tensor | None:
    if LOGITS in answer:
        return answer[LOGITS].movedim(axis, -1)
    partial = answer.partial.get(LOGITS)
    return partial.spread() if isinstance(partial, TopKLogits) else None
