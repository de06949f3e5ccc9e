"""How does a loop that is not limbeck's get limbeck's loss for a batch?"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.bridges.heads import average_gradients, begin_alike
from limbeck.engine.probe import objective_check, probe
from limbeck.engine.pupil import Lesson, Pupil
from limbeck.engine.randomness import aside
from limbeck.engine.sharing import check_shared, networks_of
from limbeck.errors import LimbeckError
from limbeck.objective import Objective
from limbeck.objective.ranks import summed, world_size
from limbeck.recipe import Stage
from limbeck.signal import Batch, Progress, Signal
from limbeck.tap import Adaptor, Frozen, Tapped, buffers_kept
from limbeck.teachers import Answer, Reads, Stream, read_inputs


class Tutor(AbstractContextManager["Tutor"]):
    """A student, an objective and a teacher, for a loop of one's own: within a ``with`` block it gives the loss.

    The loss is the engine's own, to the bit: the same objective, the same teacher in the same mode, the same means over
    what counts. When it is made, one batch goes forward and back, so that what cannot work is said now, and heads have
    their shape before an optimiser asks for their parameters. Nothing is left in the student but its gradient.

    Args:
        student: The model that learns.
        objective: What is minimised.
        teacher: A `Teacher`, or what becomes one: a module, a fitted scikit-learn classifier. None if none is read.
        example: Any batch of the data.
        source: Where batches come from, for a teacher whose answers are kept (`Cached`): it has ids and a fingerprint.
        reads: The way from a batch to inputs.
        adaptor: The student's raw output -> logits, for strange outputs.
        accumulate: How many batches go to one step of the optimiser.

    Raises:
        LimbeckError: If the teacher changes while the student learns, cannot answer, or has other classes; if labels
            are missing; if a loss that compares examples with each other would be accumulated.

    Example:
        >>> from limbeck.functional import kl_divergence
        >>> from limbeck.objective import Loss
        >>> batch, student = Batch(torch.randn(4, 2)), nn.Linear(2, 3)
        >>> with Tutor(student, Loss(kl_divergence), nn.Linear(2, 3), example=batch) as tutor:
        ...     tutor.loss(batch).backward()
        >>> student.weight.grad.shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        student: nn.Module,
        objective: Objective,
        teacher: Any = None,
        *,
        example: Batch,
        source: Stream | None = None,
        reads: Reads = read_inputs,
        adaptor: Adaptor | None = None,
        accumulate: int = 1,
    ) -> None:
        objective_check(objective, accumulate=accumulate)
        self.stage = Stage(objective, teacher=teacher)
        self.student = student
        self.source: Any = source
        self.reads = reads
        self.adaptor = adaptor
        self._open: ExitStack | None = None
        self._check_teacher()
        self._networks = networks_of(self.stage.teacher)
        check_shared(self.stage, student, self._networks)
        with self:
            self._reached = self._probe(example)
        begin_alike(self.objective)

    @property
    def objective(self) -> Objective:
        """What is minimised; its heads learn too."""
        return self.stage.objective

    @property
    def device(self) -> torch.device:
        """Where the student is."""
        return next((p.device for p in self.student.parameters()), torch.device("cpu"))

    def __enter__(self) -> Tutor:
        if self._open is None:
            with ExitStack() as stack:
                self._answer = self._opened_teacher(stack)
                self._open = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        stack, self._open = self._open, None
        if stack is not None:
            stack.__exit__(*error)

    def block(self) -> AbstractContextManager[Any]:
        """The block in which it answers: itself, or nothing where it is open already."""
        return nullcontext() if self._open is not None else self

    def counts(self, window: Sequence[Batch]) -> dict[str, float]:
        """Over how many values each term is averaged: those of all batches of one step, on all ranks.

        Gradients are averaged over ranks, and a mean needs their sum: so the count is divided by the number of ranks.
        All ranks must ask, also one that has no batch.
        """
        found = dict.fromkeys(self.objective.named_leaves(), 0.0)
        for batch in window:
            for name, count in self.objective.counts(batch).items():
                found[name] += count
        if world_size() == 1:
            return found
        leaves = self.objective.named_leaves()
        return {
            name: count if leaves[name][0].per in ("pair", "batch") else summed(count) / world_size()
            for name, count in found.items()
        }

    def loss(
        self,
        batch: Batch,
        *,
        progress: Progress | None = None,
        counts: dict[str, float] | None = None,
        model: nn.Module | None = None,
    ) -> Tensor:
        """The number to minimise for one batch, connected to the student.

        Args:
            batch: On the student's device.
            progress: How far training is, for weights that change.
            counts: What `counts` said of the step that the batch belongs to; by default it is a step of its own, on
                several processes together with the others' batches.
            model: What to call instead of the student: the same, wrapped by the loop (compiled, distributed).
        """
        if self._open is None:
            raise LimbeckError("A Tutor answers within `with tutor:` alone.")
        taught = self._answer(batch)
        if counts is None and world_size() > 1:
            counts = self.counts([batch])
        with Tapped(model or self.student, self.objective.needs.student, adaptor=self.adaptor) as tapped:
            pupil = Pupil(tapped, self.objective, reached=self._reached)
            loss: Tensor = pupil(self.reads(batch), Lesson(taught, batch, progress or Progress(), counts))
        return loss

    def average_heads(self) -> None:
        """Average the heads' gradients over all processes, where a strategy wraps the student alone.

        Call it after the last ``backward`` of a step and before the optimiser's; on one process it does nothing.
        """
        average_gradients(self.objective)

    def _check_teacher(self) -> None:
        teacher = self.stage.teacher
        if teacher is not None and (teacher.changes or teacher.names):
            raise LimbeckError(
                f"A {type(teacher).__name__} follows models of a run while they learn, which a loop of your own does "
                "not keep or save; run it by lb.distill, or give a teacher that is fixed."
            )

    def _opened_teacher(self, stack: ExitStack) -> Answer:
        teacher, needs = self.stage.teacher, self.objective.needs.teacher
        if teacher is None or not needs:
            return lambda batch: Signal()
        teacher.expect(self.source or Unknown(), self.reads)
        answer: Answer = stack.enter_context(teacher.prepare(needs, device=self.device, reads=self.reads))
        return answer

    def _probe(self, example: Batch) -> set[nn.Parameter]:
        batch, tapped = (
            example.to(self.device),
            Tapped(self.student, self.objective.needs.student, adaptor=self.adaptor),
        )
        kept = buffers_kept([self.student, *self._networks])
        with aside(), kept, Frozen(self.student, mode="train"), tapped:
            return probe(self.stage, tapped, self._answer, batch, self.reads(batch), batch.labels, still=self._networks)


class Unknown:
    """A source of which nobody said what it holds: a teacher whose answers are kept refuses it."""

    has_ids = False
    fingerprint = ""
    examples_per_epoch = None
