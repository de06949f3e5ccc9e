"""`DistillationLoss`: loss, logits and terms of one batch, for a training loop of one's own."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.batch import LOGITS, Batch, Outputs, Progress
from limbeck.data.tokenizer import is_causal_lm
from limbeck.engine.output_checks import check_class_order
from limbeck.engine.probe import objective_check, probe
from limbeck.engine.rng import fork_rng
from limbeck.engine.shared_weights import check_shared, find_networks
from limbeck.engine.student_module import StepInputs, StudentWithLoss
from limbeck.errors import LimbeckError
from limbeck.integrations.heads import average_gradients, broadcast_heads
from limbeck.integrations.id_dataset import to_batch
from limbeck.losses import Objective
from limbeck.losses.distributed import all_reduce_sum, world_size
from limbeck.recipe import Stage
from limbeck.tap import Adaptor, FrozenParameters, Tapped, preserved_buffers
from limbeck.teachers import Preprocess, Stream, TeacherFn, read_inputs


class DistillationOutput(NamedTuple):
    """What one batch gave.

    Attributes:
        loss: The number to minimize, connected to the student and to the heads.
        logits: The student's, ``[batch, classes]`` or with positions, of the forward pass that the loss is of; in its
            graph, so detach them for a metric.
        terms: Each term's mean over what counts in this batch, without its weight, by name; detached, in its loss's
            unit (nats for divergences and cross-entropy).
    """

    loss: Tensor
    logits: Tensor
    terms: dict[str, Tensor]


class DistillationLoss(AbstractContextManager["DistillationLoss"]):
    """A student, an objective and a teacher, for a loop of one's own: called with a batch, it gives loss and logits.

    The loss is the engine's own, to the bit: the same objective, the same teacher in the same mode, the same means over
    what counts. On the first batch (`example`, where it is given) a trial goes forward and back, so that what cannot
    work is said before the first step. Nothing is left in the student but its gradient. The teacher is in eval mode
    until `close`, or until the end of a ``with`` block, or of the process; whoever calls again opens it again.

    Args:
        student: The model that learns, in the mode that the loop has put it in.
        objective: What is minimized.
        teacher: A `Teacher`, or what becomes one: a module, a fitted scikit-learn classifier. None if none is read.
        example: Any batch of the data; needed where heads learn, whose shape it gives before an optimizer asks for
            their parameters (``distillation.objective.parameters()``).
        loader: Where batches come from, for a teacher whose answers are kept (`CachedTeacher`): it has ids and a
            fingerprint.
        preprocess: The way from a batch to inputs.
        adaptor: The student's raw output -> logits, for strange outputs.
        adapt: What the loop's loader gives -> `Batch`, for what `__call__` does not know.
        accumulate: How many batches go to one step of the optimizer.

    Raises:
        LimbeckError: If the teacher changes while the student learns, cannot answer, or has other classes; if labels
            are missing; if a loss that compares examples with each other would be accumulated; if heads have no
            example.

    Example:
        >>> from limbeck.functional import kl_divergence
        >>> from limbeck.losses import Loss
        >>> student = nn.Linear(2, 3)
        >>> distillation = DistillationLoss(student, Loss(kl_divergence), nn.Linear(2, 3))
        >>> output = distillation((torch.randn(4, 2), torch.tensor([0, 1, 2, 0])))
        >>> output.loss.backward()
        >>> student.weight.grad.shape, output.logits.shape, list(output.terms)
        (torch.Size([3, 2]), torch.Size([4, 3]), ['kl_divergence'])
        >>> distillation.close()
    """

    def __init__(
        self,
        student: nn.Module,
        objective: Objective,
        teacher: Any = None,
        *,
        example: Any = None,
        loader: Stream | None = None,
        preprocess: Preprocess = read_inputs,
        adaptor: Adaptor | None = None,
        adapt: Callable[[Any], Batch] | None = None,
        accumulate: int = 1,
    ) -> None:
        objective_check(objective, accumulate=accumulate)
        self.stage = Stage(objective, teacher=teacher)
        self.student = student
        self.loader: Any = loader
        self.preprocess = preprocess
        self.adaptor = adaptor
        self.adapt = adapt
        self._shifted = is_causal_lm(student)
        self._closing: Callable[[], Any] | None = None
        self._place: torch.device | None = None
        self._reached: set[nn.Parameter] | None = None
        self._changes_inputs: bool | None = None
        self._check_teacher()
        self._networks = find_networks(self.stage.teacher)
        check_shared(self.stage, student, self._networks)
        check_class_order(self.stage, student, self._networks)
        if example is not None:
            with self:
                self._fit(self.batch(example))
        elif any(getattr(leaf, "head", None) is not None for leaf, _ in objective.leaves()):
            raise LimbeckError(
                "This objective has heads that learn, whose shape depends on the data: give example=batch."
            )
        broadcast_heads(self.objective)

    @property
    def objective(self) -> Objective:
        """What is minimized; its heads learn too."""
        return self.stage.objective

    @property
    def device(self) -> torch.device:
        """Where the student is."""
        return next((p.device for p in self.student.parameters()), torch.device("cpu"))

    def __enter__(self) -> DistillationLoss:
        if self._closing is None:
            with ExitStack() as stack:
                self._answer = self._opened_teacher(stack)
                # Also at the end of the process, before its modules fall apart, and when the distillation is forgotten.
                self._closing = weakref.finalize(self, stack.pop_all().close)
            self._place = self.device
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        """Let the teacher go: its hooks are taken away and its modes are as they were. Twice is no harm."""
        closing, self._closing = self._closing, None
        if closing is not None:
            closing()

    def block(self) -> AbstractContextManager[Any]:
        """The block in which it answers: itself, or nothing where it is open already."""
        return nullcontext() if self._closing is not None else self

    def counts(self, window: Sequence[Any]) -> dict[str, float]:
        """Over how many values each term is averaged: those of all batches of one step, on all ranks.

        Gradients are averaged over ranks, and a mean needs their sum: so the count is divided by the number of ranks.
        All ranks must ask, also one that has no batch.
        """
        totals = dict.fromkeys(self.objective.named_leaves(), 0.0)
        for batch in window:
            for name, count in self.objective.counts(self.batch(batch)).items():
                totals[name] += count
        if world_size() == 1:
            return totals
        leaves = self.objective.named_leaves()
        return {
            name: count if leaves[name][0].per in ("pair", "batch") else all_reduce_sum(count) / world_size()
            for name, count in totals.items()
        }

    def batch(self, item: Any) -> Batch:
        """What a loader gave, as a batch on the student's device.

        Raises:
            DataError: If it could mean several things; the sentence shows it.
        """
        batch = to_batch(item, shifted=self._shifted) if self.adapt is None else self.adapt(item)
        return batch.to(self.device)

    def __call__(
        self,
        item: Any,
        *,
        progress: Progress | None = None,
        counts: dict[str, float] | None = None,
        model: nn.Module | None = None,
    ) -> DistillationOutput:
        """One forward pass of student and teacher.

        Args:
            item: ``(inputs, labels)``, a mapping with ``labels``, inputs alone, or a `Batch`; it is moved to the
                student's device.
            progress: How far training is, for weights that change.
            counts: What `counts` said of the step that the batch belongs to; by default it is a step of its own, on
                several processes together with the others' batches.
            model: What to call instead of the student: the same, wrapped by the loop (compiled, distributed).

        Returns:
            The loss, the student's logits, and each term.

        Raises:
            LimbeckError: On the first batch, if something cannot work; the sentence says what.
            DataError: If the item could mean several things.
        """
        batch = self.batch(item)
        if self._closing is not None and self._place != self.device:
            self.close()  # the student has moved, and the teacher follows
        if self._closing is None:
            self.__enter__()
        if self._reached is None:
            self._fit(batch)
        taught = self._answer(batch)
        if counts is None and world_size() > 1:
            counts = self.counts([batch])
        with Tapped(model or self.student, self.objective.requires.student, adaptor=self.adaptor) as tapped:
            tapped.changes_inputs = self._changes_inputs
            logits: list[Tensor] = []
            tapped.register_forward_hook(lambda _, __, signal: logits.append(signal[LOGITS]))
            student_with_loss = StudentWithLoss(tapped, self.objective, reached=self._reached or ())
            loss: Tensor = student_with_loss(
                self.preprocess(batch), StepInputs(taught, batch, progress or Progress(), counts)
            )
        terms = {name: term.total / (float(term.count) or 1.0) for name, term in student_with_loss.terms.items()}
        return DistillationOutput(loss, logits[-1], terms)

    def loss(
        self,
        item: Any,
        *,
        progress: Progress | None = None,
        counts: dict[str, float] | None = None,
        model: nn.Module | None = None,
    ) -> Tensor:
        """The loss alone of what calling it gives."""
        return self(item, progress=progress, counts=counts, model=model).loss

    def average_heads(self) -> None:
        """Average the heads' gradients over all processes, where a strategy wraps the student alone.

        Call it after the last ``backward`` of a step and before the optimizer's; on one process it does nothing.
        """
        average_gradients(self.objective)

    def _check_teacher(self) -> None:
        teacher = self.stage.teacher
        if teacher is not None and (teacher.changes or teacher.names):
            raise LimbeckError(
                f"A {type(teacher).__name__} follows models of a run while they learn, which a loop of your own does "
                "not keep or save; run it by lb.distill, or give a teacher that is fixed."
            )

    def _opened_teacher(self, stack: ExitStack) -> TeacherFn:
        teacher, requires = self.stage.teacher, self.objective.requires.teacher
        if teacher is None or not requires:
            return lambda batch: Outputs()
        teacher.attach_loader(self.loader or Unknown(), self.preprocess)
        teacher.serve(self.objective.temperatures)
        answer: TeacherFn = stack.enter_context(
            teacher.prepare(requires, device=self.device, preprocess=self.preprocess)
        )
        return answer

    def _fit(self, batch: Batch) -> None:
        """Probe the student, and keep the objective that is fitted to the batch."""
        tapped = Tapped(self.student, self.objective.requires.student, adaptor=self.adaptor)
        buffers = preserved_buffers([self.student, *self._networks])
        try:
            with fork_rng(), buffers, FrozenParameters(self.student, mode="train"), tapped:
                inputs = self.preprocess(batch)
                fitted = probe(self.stage, tapped, self._answer, batch, inputs, batch.labels, fixed=self._networks)
            self.stage, self._reached = replace(self.stage, objective=fitted.objective), fitted.reached
        finally:
            self._changes_inputs = tapped.changes_inputs
            torch.clear_autocast_cache()  # within a loop's autocast, casts of the trial belong to its graph


class Unknown:
    """A source of which nobody said what it holds: a teacher whose answers are kept refuses it."""

    has_ids = False
    fingerprint = ""
    examples_per_epoch = None
