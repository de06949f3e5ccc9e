"""`AdversarialPairs`: a loss of each example together with its adversarial copy, and what methods with it share."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.batch import LOGITS, Batch, Outputs, Progress, Requirements, Term
from limbeck.data import ArrayDataset
from limbeck.data.adversarial_loader import ADVERSARIAL
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional.adversarial import is_finite_number
from limbeck.losses import Loss, LossContext, LossTerm
from limbeck.models import build
from limbeck.recipe import Models


@final
class AdversarialPairs(LossTerm):
    """A loss of each example and its adversarial copy, for the batches of `limbeck.data.AdversarialLoader`.

    The kernel gets the student's logits of the clean rows as ``clean`` and those of their copies as ``adversarial``,
    both ``[pairs, classes]``; the teacher's logits of the clean rows as ``teacher``, and their labels, if it takes
    them. There is one value for each pair.

    Args:
        kernel: A function declared with ``@kernel(per="position")``.
        name: The name of the term; by default that of the kernel.
        **hyper: The hyper-parameters of the kernel.

    Example:
        >>> from limbeck.functional import kernel
        >>> @kernel(per="example")
        ... def change(clean, adversarial):
        ...     return (clean - adversarial).square().sum(-1)
        >>> logits = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 3.0], [2.0, 0.0]])
        >>> adversarial = torch.tensor([False, False, True, True])
        >>> batch = Batch(torch.zeros(4), id=torch.tensor([0, 1, 0, 1]), extra={"adversarial": adversarial})
        >>> loss = AdversarialPairs(change).setup(LossContext(Outputs(logits=logits), Outputs(), batch))
        >>> loss.term(Outputs(logits=logits), Outputs(), batch, Progress())[:2]
        (tensor(4.), 2.0)
    """

    def __init__(self, kernel: Callable[..., Tensor], *, name: str | None = None, **hyper: Any) -> None:
        super().__init__()
        sides = {"clean": "clean", "adversarial": "adversarial"}
        # A partial has no name of its own.
        self.loss = Loss(kernel, student=sides, name=name or getattr(kernel, "__name__", None), **hyper)
        self.name, self.per = self.loss.name, self.loss.per
        self.own_temperatures = self.loss.own_temperatures

    @property
    def requires(self) -> Requirements:
        """The student's logits, and what the kernel takes of the teacher and of the batch."""
        return self.loss.requires._replace(student=frozenset({LOGITS}))

    def setup(self, context: LossContext) -> AdversarialPairs:
        """Return a copy for the shapes of this stage.

        Raises:
            LimbeckError: If the batches have no pairs.
        """
        adversarial = context.batch.extra.get(ADVERSARIAL)
        if adversarial is None or int(adversarial.sum()) * 2 != len(adversarial):
            raise LimbeckError(
                f"{self.name} compares each example with its adversarial copy, and the batches have no such pairs: "
                "Stage(loader=Attack(epsilon=...)), with keep_clean=True."
            )
        student, teacher, batch = self._select(context.student, context.teacher, context.batch)
        loss = copy.copy(self)
        loss.loss = self.loss.setup(replace(context, student=student, teacher=teacher, batch=batch))
        return loss

    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """The sum over the pairs that count."""
        return self.loss.term(*self._select(student, teacher, batch), progress)

    def count(self, batch: Batch) -> float:
        """The number of pairs that count."""
        return self.loss.count(batch.rows(_find_rows(batch)[0]))

    def _select(self, student: Outputs, teacher: Outputs, batch: Batch) -> tuple[Outputs, Outputs, Batch]:
        """The logits of clean rows and of copies beside each other, and the clean rows of teacher and batch."""
        clean, copies = _find_rows(batch)
        logits = student[LOGITS]
        rows = clean.to(logits.device)
        ours = Outputs(clean=logits[rows], adversarial=logits[copies.to(logits.device)])
        theirs = Outputs(logits=teacher[LOGITS][rows]) if self.loss.teacher else Outputs()
        return ours, theirs, batch.rows(clean)

    def __repr__(self) -> str:
        return f"AdversarialPairs({self.loss!r})"


def _find_rows(batch: Batch) -> tuple[Tensor, Tensor]:
    """The numbers of the clean rows, and those of their copies in the same order."""
    adversarial = batch.extra[ADVERSARIAL]
    rows = torch.arange(len(adversarial), device=adversarial.device)
    return rows[~adversarial], rows[adversarial]


def check_epsilon(epsilon: Any) -> None:
    """Check the radius of an attack that a method trains against.

    Raises:
        ArgumentError: If it is not above 0: without a change there is nothing to be robust against.

    Example:
        >>> check_epsilon(0.1)
    """
    if not (is_finite_number(epsilon) and epsilon > 0):
        raise ArgumentError(
            f"epsilon is a number above 0, as a fraction of the range of the inputs, such as 0.1 or 8/255; got "
            f"{epsilon!r}.", argument="epsilon", example="0.1",
        )  # fmt: skip


def check_decay(decay: float) -> None:
    """Check the decay of the moving average of the weights that is shipped.

    Raises:
        ArgumentError: If it is not at least 0 and below 1.
    """
    if not (is_finite_number(decay) and 0 <= decay < 1):
        raise ArgumentError(
            f"average_decay is at least 0 and below 1, such as 0.999; got {decay!r}.", argument="average_decay",
            example="0.999",
        )  # fmt: skip


def copy_student(models: Models) -> nn.Module:
    """A copy of the student, the beginning of an average of its weights."""
    return copy.deepcopy(models["student"])


def make_adversarial_trial() -> tuple[nn.Module, nn.Module, ArrayDataset]:
    """Make a student, a teacher and inputs from 0 to 1 of which every third has a label, for the tests of methods."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (48,), generator=draw).masked_fill(torch.arange(48) % 3 > 0, -100)
    student, teacher = (
        build("mlp", inputs=6, classes=3, hidden=[width, width], dropout=0.1, seed=1) for width in (4, 8)
    )
    return student, teacher.eval(), ArrayDataset(torch.rand(48, 6, generator=draw), labels)
