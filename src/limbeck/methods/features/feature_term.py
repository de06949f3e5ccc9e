"""`FeatureTerm`: a loss of features with learned parts beside the student, built from the shapes of the first batch."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.batch import Batch, Outputs, Progress, Requirements, Term, zero_where_masked
from limbeck.losses import LossContext, LossTerm


class FeatureTerm(LossTerm, ABC):
    """A loss with one value for each example, from layers of student and teacher, and with parameters of its own.

    `build` creates these for the shapes of the first batch. They are trained with the student, are part of every
    checkpoint, and are dropped after the stage. Features arrive in float32 or better, and autocast is off.

    Args:
        pairs: The layers (student, teacher).
    """

    per = "example"

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self.pairs = tuple(pairs)

    @property
    def requires(self) -> Requirements:
        """The layers of both models."""
        ours, theirs = zip(*self.pairs, strict=True)
        return Requirements(frozenset(ours), frozenset(theirs))

    def setup(self, context: LossContext) -> FeatureTerm:
        """A copy with parameters for the shapes of this stage."""
        fitted = copy.copy(self)
        ours, theirs = fitted._read(context.student, context.teacher, context.batch)
        fitted.build(ours, theirs, context)
        if ours:
            fitted.to(device=ours[0].device, dtype=ours[0].dtype)
        return fitted

    @abstractmethod
    def build(self, ours: list[Tensor], theirs: list[Tensor], context: LossContext) -> None:
        """Create parameters and modules.

        Args:
            ours: The student's features of the first batch, in the order of `pairs`.
            theirs: The teacher's features.
            context: What else is known before the first step.
        """

    @abstractmethod
    def compare(
        self, ours: list[Tensor], theirs: list[Tensor], batch: Batch, progress: Progress
    ) -> Float[Tensor, " batch"]:
        """Compute one value for each example."""

    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """The sum of the values of the examples that count, and their number."""
        ours, theirs = self._read(student, teacher, batch)
        with torch.autocast(batch.valid.device.type, enabled=False):
            values = self.compare(ours, theirs, batch, progress)
        return Term(values.masked_fill(~batch.valid, 0.0).sum(), self.count(batch))

    def count(self, batch: Batch) -> float:
        """The number of examples that count."""
        return float(batch.valid.sum())

    def _read(self, student: Outputs, teacher: Outputs, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        ours = [_widen(student[address]) for address, _ in self.pairs]
        theirs = [_widen(teacher[address]) for _, address in self.pairs]
        for mask in (batch.valid, *([] if batch.mask is None else [batch.mask.bool()])):  # examples, and their tokens
            theirs = [zero_where_masked(features, mask) for features in theirs]
        return ours, theirs


def _widen(features: Tensor) -> Tensor:
    return features.to(torch.promote_types(features.dtype, torch.float32))
