"""`DistillationLoss`: loss, logits and terms of one batch, for your own training loop."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from limbeck.batch import LOGITS, Batch, Outputs, Progress
from limbeck.data.tokenizer import find_label_format
from limbeck.engine import (
    StepInputs,
    StudentWithLoss,
    check_class_order,
    check_shared,
    find_networks,
    losses_with_memory,
    objective_check,
    open_teacher,
    probe,
)
from limbeck.errors import LimbeckError
from limbeck.integrations.id_dataset import to_batch
from limbeck.losses import Objective, all_reduce_sum, copy_objective, rank_device, shared_parts, world_size
from limbeck.model_call import Adaptor
from limbeck.random_seeds import fork_rng
from limbeck.recipe import Stage
from limbeck.tap import FrozenParameters, Tapped, preserved_buffers
from limbeck.teachers import Preprocess, Stream, TeacherFn, read_inputs


def broadcast_heads(heads: nn.Module) -> None:
    """Copy the heads of the first process to all others."""
    if world_size() > 1:
        for tensor in heads.state_dict().values():
            sent = tensor.to(rank_device())
            dist.broadcast(sent, src=0)
            tensor.copy_(sent)


def average_gradients(heads: nn.Module) -> None:
    """Average the heads' gradients over all processes, as strategies do for the model that they wrap."""
    if world_size() == 1:
        return
    for parameter in heads.parameters():
        if parameter.requires_grad:
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            total = own.to(rank_device())
            dist.all_reduce(total)
            parameter.grad = (total / world_size()).to(parameter.device)


class DistillationOutput(NamedTuple):
    """The output of `DistillationLoss` for one batch.

    Attributes:
        loss: The value to minimize, with the graph of student and heads.
        logits: The student's logits, ``[batch, classes]`` or with positions, from the same forward pass and with its
            graph; detach them for a metric.
        terms: Name -> the mean of each term in this batch, unweighted and detached, in the unit of the loss (nats for
            divergences and cross-entropy).
    """

    loss: Tensor
    logits: Tensor
    terms: dict[str, Tensor]


class DistillationLoss(AbstractContextManager["DistillationLoss"]):
    """Distillation for your own training loop: called with a batch, it returns loss and logits.

    The loss is bit-identical to that of `distill`: the same objective, the same teacher in the same mode, the same
    means. The first batch (or `example`) is first run forward and backward once, so that errors appear before the first
    step. The student is left unchanged except for its gradient. The teacher is in eval mode until `close`, the end of a
    ``with`` block, or the end of the process. The next call opens it again.

    Args:
        student: The student, in the mode that the loop has set.
        objective: The objective to minimize.
        teacher: A `Teacher`, or a module or fitted scikit-learn classifier. None if the objective uses none.
        example: Any batch of the data. It is needed if the objective has trainable heads: it determines their shape
            before the optimizer gets their parameters (``distillation.objective.parameters()``).
        loader: The source of the batches, for a `CachedTeacher`, which needs its ids and fingerprint.
        preprocess: Function from a batch to the student's inputs.
        adaptor: Function from the student's raw output to logits, for unusual outputs.
        to_batch: Function from an item of the loader to a `Batch`, for items that `__call__` does not support.
        accumulate: The number of batches in one optimizer step.

    Raises:
        LimbeckError: If the teacher changes during training, fails, or has other classes; if labels are missing; if a
            loss that compares examples with each other is accumulated; if a loss has a memory that is updated after a
            step; if there are heads and no `example`.

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
        to_batch: Callable[[Any], Batch] | None = None,
        accumulate: int = 1,
    ) -> None:
        objective_check(objective, accumulate=accumulate)
        if updated := losses_with_memory(objective):
            raise LimbeckError(
                f"{updated[0].name} is updated after each optimizer step, and here limbeck takes none, so it would "
                "never change: use distill(), or a loss without a memory."
            )
        stage = Stage(objective, teacher=teacher)
        self._networks = find_networks(stage.teacher)
        shared = shared_parts(student, *self._networks)
        self.stage = replace(stage, objective=copy_objective(objective, shared))
        self.student = student
        self.loader: Any = loader
        self.preprocess = preprocess
        self.adaptor = adaptor
        self.to_batch = to_batch
        self._label_format = find_label_format(student)
        self._closing: Callable[[], Any] | None = None
        self._place: torch.device | None = None
        self._reached: set[nn.Parameter] | None = None
        self._changes_inputs: bool | None = None
        self._check_teacher()
        check_shared(self.stage, student, self._networks)
        check_class_order(self.stage, student, self._networks)
        if example is not None:
            with self:
                self._fit(self.batch(example))
        elif any(leaf.heads for leaf, _ in objective.leaves()):
            raise LimbeckError(
                "This objective has trainable heads whose shape depends on the data: give example=batch."
            )
        broadcast_heads(self.objective)

    @property
    def objective(self) -> Objective:
        """The objective to minimize; its heads are trained too."""
        return self.stage.objective

    @property
    def _addresses(self) -> frozenset[str]:
        """The addresses that are read in the student, always with its logits, which the loop may need."""
        return self.objective.requires.student | {LOGITS}

    @property
    def device(self) -> torch.device:
        """The student's device."""
        return next((p.device for p in self.student.parameters()), torch.device("cpu"))

    def __enter__(self) -> DistillationLoss:
        if self._closing is None:
            with ExitStack() as stack:
                self._answer = self._opened_teacher(stack)
                # Also runs at the end of the process, before modules are torn down, and on garbage collection.
                self._closing = weakref.finalize(self, stack.pop_all().close)
            self._place = self.device
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        """Remove the teacher's hooks and restore its modes. Calling it twice is allowed."""
        closing, self._closing = self._closing, None
        if closing is not None:
            closing()

    def block(self) -> AbstractContextManager[Any]:
        """A context in which the teacher is open: itself, or a null context if it is open already."""
        return nullcontext() if self._closing is not None else self

    def counts(self, window: Sequence[Any]) -> dict[str, float]:
        """Count the values that each term is averaged over: those of all batches of one step, on all ranks.

        DDP averages gradients over ranks where a mean needs their sum, so the count is divided by the number of ranks.
        All ranks must call this, also one without a batch.
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
        """Convert an item of a loader to a batch on the student's device.

        Raises:
            DataError: If the item is ambiguous.
        """
        batch = to_batch(item, label_format=self._label_format) if self.to_batch is None else self.to_batch(item)
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
            progress: The progress of training, for scheduled weights.
            counts: The result of `counts` for the step of this batch. By default the batch is a step of its own,
                together with the batches of the other processes.
            model: The student as wrapped by the loop (compiled, distributed), to be called instead of it.

        Returns:
            The loss, the student's logits, and each term.

        Raises:
            LimbeckError: On the first batch, if student, teacher, data and objective do not fit together.
            DataError: If the item is ambiguous.
        """
        batch = self.batch(item)
        if self._closing is not None and self._place != self.device:
            self.close()  # the student was moved: open the teacher again on its device
        if self._closing is None:
            self.__enter__()
        if self._reached is None:
            self._fit(batch)
        progress = progress or Progress()
        taught = self._answer(batch) if self.objective.reads_teacher(progress) else Outputs()
        if counts is None and world_size() > 1:
            counts = self.counts([batch])
        with Tapped(model or self.student, self._addresses, adaptor=self.adaptor) as tapped:
            tapped.changes_inputs = self._changes_inputs
            logits: list[Tensor] = []
            tapped.register_forward_hook(lambda _, __, signal: logits.append(signal[LOGITS]))
            student_with_loss = StudentWithLoss(tapped, self.objective, reached=self._reached or ())
            loss: Tensor = student_with_loss(self.preprocess(batch), StepInputs(taught, batch, progress, counts))
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
        """The loss only, with the same arguments."""
        return self(item, progress=progress, counts=counts, model=model).loss

    def average_heads(self) -> None:
        """Average the heads' gradients over all processes, for strategies that wrap only the student.

        Call it after the last ``backward`` and before the optimizer step. It does nothing on one process.
        """
        average_gradients(self.objective)

    def _check_teacher(self) -> None:
        teacher = self.stage.teacher
        if teacher is not None and (teacher.capabilities.changes or teacher.names):
            raise LimbeckError(
                f"A {type(teacher).__name__} changes during training, and your own loop would not save it; use "
                "lb.distill, or a fixed teacher."
            )

    def _opened_teacher(self, stack: ExitStack) -> TeacherFn:
        loader = self.loader or UnidentifiedLoader()
        session = open_teacher(self.stage, self.preprocess, loader, self.device, {})
        return (lambda batch: Outputs()) if session is None else stack.enter_context(session)

    def _fit(self, batch: Batch) -> None:
        """Run a trial on the batch, and store the objective with heads fitted to it."""
        tapped = Tapped(self.student, self._addresses, adaptor=self.adaptor)
        buffers = preserved_buffers([self.student, *self._networks])
        try:
            with fork_rng(), buffers, FrozenParameters(self.student, mode="train"), tapped:
                inputs = self.preprocess(batch)
                fitted = probe(self.stage, tapped, self._answer, batch, inputs, self.loader, fixed=self._networks)
            self.stage, self._reached = replace(self.stage, objective=fitted.objective), fitted.reached
        finally:
            self._changes_inputs = tapped.changes_inputs
            torch.clear_autocast_cache()  # inside autocast, cached casts would belong to the trial's graph


class UnidentifiedLoader(Stream):
    """Stands for a loader without ids and fingerprint, which a cached teacher refuses."""

    has_ids = False

    @property
    def fingerprint(self) -> str:
        """Empty: nothing is known about the examples."""
        return ""
