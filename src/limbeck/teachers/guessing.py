"""How often is one right who guesses, and is a teacher any better?"""

from __future__ import annotations

import warnings
from typing import NamedTuple

from torch import Tensor

from limbeck.errors import LimbeckWarning
from limbeck.partial import TopK
from limbeck.signal import IGNORED, LOGITS, Batch, Signal

_FEWEST, _ENOUGH = 100, 1000
"""Labelled examples: on fewer nothing can be said, and on so many enough was seen."""


class Chance(NamedTuple):
    """What guessing gives.

    Attributes:
        share: Of the examples that it gets right, on average: one in as many as there are classes.
        reach: What it may come to on so few examples: two standard errors more.
    """

    share: float
    reach: float


def chance_of(classes: int, examples: int) -> Chance:
    """What guessing gives on so many examples.

    Example:
        >>> round(chance_of(10, 900).reach, 6)
        0.12
    """
    share = 1.0 / classes
    return Chance(share, min(share + 2.0 * (share * (1.0 - share) / max(examples, 1)) ** 0.5, 1.0))


class Tried:
    """A teacher's answers beside the labels, as they come; says once, in a warning, if it is no better than chance.

    Args:
        classes: Which dimension of the logits holds the classes.
    """

    def __init__(self, *, classes: int = -1) -> None:
        self._axis = classes
        self._classes = self._right = self._seen = 0
        self._said = False

    def see(self, batch: Batch, answer: Signal) -> None:
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
        if self._seen >= _ENOUGH:
            self.tell()

    def tell(self) -> None:
        """Warn, if it is not done already and enough was seen."""
        if self._said or self._seen < _FEWEST:
            return
        self._said = True
        found, chance = self._right / self._seen, chance_of(self._classes, self._seen)
        if found <= chance.reach:
            sentence = (
                f"The teacher is right about {100 * found:.1f} % of {self._seen:,} examples, and chance alone gives "
                f"{100 * chance.share:.1f} %, up to {100 * chance.reach:.1f} % on so few: its answers may not be worth "
                "keeping. Was it trained with another input normalisation (reads=) or label order?"
            )
            warnings.warn(sentence, LimbeckWarning, stacklevel=3)


def _logits(answer: Signal, axis: int) -> Tensor | None:
    if LOGITS in answer:
        return answer[LOGITS].movedim(axis, -1)
    partial = answer.partial.get(LOGITS)
    return partial.spread() if isinstance(partial, TopK) else None
