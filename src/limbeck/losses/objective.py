"""Objectives: losses that add and scale, and what they know before the first step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn

from limbeck.batch import LOGITS, Batch, Outputs, Progress, Requirements, Term
from limbeck.errors import LimbeckError
from limbeck.losses.row_loss import RowTerm, compute_row_terms
from limbeck.schedule import Schedule

Weight = float | int | Schedule
Weigh = Callable[[Progress], float]


@dataclass(frozen=True)
class LossContext:
    """What a loss knows of its stage before the first step.

    Attributes:
        student: The student's outputs for the first batch, at all addresses that the stage reads.
        teacher: The teacher's outputs for the first batch; empty if the stage has no teacher.
        batch: The first batch.
        output_layer: The layer that computes the student's logits; None if it cannot be told.
        teacher_output_layer: The same of the teacher, if it is a single network.
        ids: The ids of all examples, ``int64 [examples]``, in the order of the data set; None if the loader does not
            know them. Ids are not positions: those of a subset are any numbers (see `RowIndex`).
        examples: The number of examples in an epoch; None if unknown.
        vocabulary: The number of tokens of a language model; None for other models.
        model: The model that learns, for losses that read its parameters; None if they are sharded over ranks. Keep it
            in a tuple, or its parameters become those of the loss.
        forward: Function from a batch to the model's outputs, with a graph, while the stage is open; None likewise.
        answer: Function from a batch to the teacher's outputs, while the stage is open; None without a teacher.
    """

    student: Outputs
    teacher: Outputs
    batch: Batch
    output_layer: nn.Module | None = None
    teacher_output_layer: nn.Module | None = None
    ids: Tensor | None = None
    examples: int | None = None
    vocabulary: int | None = None
    model: nn.Module | None = None
    forward: Callable[[Batch], Outputs] | None = None
    answer: Callable[[Batch], Outputs] | None = None

    @property
    def device(self) -> torch.device:
        """The device of the student's outputs."""
        return next((tensor.device for tensor in self.student.values()), torch.device("cpu"))

    @property
    def classes(self) -> int | None:
        """The size of the last dimension of the logits, also if they are not computed."""
        if LOGITS in self.student or LOGITS in self.student.hidden:
            return self.student.raw(LOGITS).shape[-1]
        return None if self.output_layer is None else len(cast(Tensor, self.output_layer.weight))


class Objective(nn.Module, ABC):
    """The loss that a stage minimizes. Sums and multiples of objectives are objectives.

    Write ``0.1 * a + ramp(0.9) * b``, with the weight first. A call with the outputs of student and teacher returns
    named `Term`s. The minimized value is ``sum of weight * total / count``, with counts taken from the batches of the
    whole accumulation window. An objective is a module because its heads can have parameters.
    """

    @abstractmethod
    def leaves(self) -> Iterator[tuple[LossTerm, Weigh]]:
        """All single losses with their weights, in the order written."""

    @abstractmethod
    def setup(self, context: LossContext) -> Objective:
        """Return the objective for one stage.

        The engine calls it once for each stage, before the first step.

        Raises:
            LimbeckError: If student and teacher cannot be compared.
        """

    @property
    def requires(self) -> Requirements:
        """The outputs and batch columns that it needs, also for a weight of zero."""
        requires = Requirements()
        for leaf, _ in self.leaves():
            requires = requires | leaf.requires
        return requires

    @property
    def temperatures(self) -> frozenset[float]:
        """All temperatures that the losses apply to the teacher's logits, including those of a schedule."""
        return frozenset().union(*(leaf.own_temperatures for leaf, _ in self.leaves()))

    @property
    def masks(self) -> frozenset[str]:
        """The names of the masks that its losses read the teacher by, in place of ``Batch.mask``."""
        own = (leaf.where for leaf, _ in self.leaves() if leaf.requires.teacher)
        return frozenset(name for name in own if name is not None)

    def named_leaves(self) -> dict[str, tuple[LossTerm, Weigh]]:
        """All single losses by a unique name; a repeated name gets #2, #3, ..."""
        return self._named_leaves

    @cached_property
    def _named_leaves(self) -> dict[str, tuple[LossTerm, Weigh]]:
        named: dict[str, tuple[LossTerm, Weigh]] = {}
        for leaf, weigh in self.leaves():
            name, number = leaf.name, 1
            while name in named:
                number += 1
                name = f"{leaf.name}#{number}"
            named[name] = (leaf, weigh)
        return named

    def forward(
        self,
        student: Outputs,
        teacher: Outputs,
        batch: Batch,
        progress: Progress,
        counts: Mapping[str, float] | None = None,
    ) -> dict[str, Term]:
        """Compute the terms for one batch.

        If the student's logits are not multiplied out (`Outputs.hidden`), the terms that are sums over rows of logits
        are computed together, in one pass that never holds all logits.

        Args:
            student: The student's outputs.
            teacher: The teacher's outputs.
            batch: The batch.
            progress: How far the stage has come.
            counts: The number of values of each term in the whole step, if it has more than this batch.
        """
        step, steps, epoch, *_ = progress
        terms: dict[str, Term | RowTerm] = {}
        for name, (leaf, weigh) in self.named_leaves().items():
            weight = weigh(progress)
            if weight == 0 and leaf.skip_at_zero:
                continue
            at = Progress(step, steps, epoch, weight, None if counts is None else counts[name])
            row_term = leaf.row_term(student, teacher, batch, at) if student.hidden else None
            if row_term is None:
                total, count, _ = leaf.term(student, teacher, batch, at)
                terms[name] = Term(total, count, weight)
            else:
                terms[name] = row_term
        rows = {name: term for name, term in terms.items() if isinstance(term, RowTerm)}
        computed = compute_row_terms(rows, student) if rows else {}
        return {name: computed[name] if isinstance(term, RowTerm) else term for name, term in terms.items()}

    def reads_teacher(self, progress: Progress) -> bool:
        """Whether a loss that is computed at this step needs outputs of the teacher."""
        leaves = ((leaf, weigh(progress)) for leaf, weigh in self.leaves())
        return any((weight != 0 or not leaf.skip_at_zero) and leaf.requires.teacher for leaf, weight in leaves)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Count the values of each loss for `batch`, before the forward pass."""
        return {name: leaf.count(batch) for name, (leaf, _) in self.named_leaves().items()}

    def __add__(self, other: object) -> Objective:
        if not isinstance(other, Objective):
            return NotImplemented
        return Sum(self, other)

    def __radd__(self, other: object) -> Objective:
        """Support ``sum([a, b, c])``, which starts with the number 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __rmul__(self, weight: object) -> Objective:
        if not isinstance(weight, (int, float, Schedule)):
            return NotImplemented
        return Scaled(self, weight)

    def __mul__(self, weight: object) -> Objective:
        raise LimbeckError(f"Write the weight first: {weight!r} * objective.")


class LossTerm(Objective, ABC):
    """A single loss: the part of an objective that returns one term. Subclass it for a loss with a memory or heads.

    The engine calls `setup` once for a stage, then for every micro-batch `count` and `term`, and after the optimizer
    step `after_step`, and `end_step` once. The loss that the user wrote is shared by all stages that contain it, so
    what depends on one stage (shapes, a memory bank) belongs to the object that `setup` returns. Parameters of that
    object are trained. Its parameters and buffers are in the checkpoint; other attributes are not.

    Before training, the engine calls `term` once to find errors, and then restores the state of the loss.

    Attributes:
        name: The name of the term in reports.
        per: What one value belongs to, as in `limbeck.functional.kernel`. A loss per pair or per batch sees the
            examples of all ranks, and cannot be accumulated.
        own_temperatures: The temperatures that it applies to the teacher's logits, if known.
        classes: The dimension of the logits that holds the classes.
        where: The name of a mask that it uses in place of ``Batch.mask``.
        optimizer_options: Options of the optimizer for its own parameters, such as ``{"lr": 0.01}``.
        skip_at_zero: Whether `term` need not be called at steps where the weight is 0: it keeps nothing from one call
            to the next, and draws no random numbers. Reports then hold its mean over the other steps, and a teacher
            that no other loss needs is not asked.
        reads_token_mask: Whether its `term` leaves out the tokens of features where a mask of tokens is False.
    """

    name: str
    per: str
    own_temperatures: frozenset[float] = frozenset()
    classes: int = -1
    where: str | None = None
    optimizer_options: Mapping[str, Any] = MappingProxyType({})
    skip_at_zero: bool = False
    reads_token_mask: bool = False

    @property
    @abstractmethod
    def requires(self) -> Requirements:
        """The outputs of student and teacher and the batch columns that it needs."""

    @abstractmethod
    def setup(self, context: LossContext) -> LossTerm:
        """Return the loss for one stage; itself if nothing depends on the stage."""

    @abstractmethod
    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """Compute the sum of the values that count, and their number, for one batch.

        ``progress.weight`` and ``progress.count`` are known before anything is computed, for losses that compute their
        gradient in the forward pass.
        """

    @abstractmethod
    def count(self, batch: Batch) -> float:
        """Count the values of `batch`."""

    def takes_rows(self, classes: int, device: torch.device) -> bool:
        """Whether it is a sum over rows of the student's logits, so that `row_term` describes it.

        Args:
            classes: The number of classes.
            device: The device of the logits.
        """
        return False

    def row_term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> RowTerm | None:
        """Describe the loss of each row of the student's logits, so that they need not be held all at once.

        None, the default, means that `term` computes it.
        """
        return None

    def after_step(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> None:
        """Update a memory after an optimizer step; called without gradients, once for each micro-batch of the step.

        On several ranks each rank is called with its own rows; `limbeck.losses.all_gather` returns those of all. A
        buffer that then differs between ranks is refused.

        Args:
            student: The student's outputs for the batch, from before the step.
            teacher: The teacher's outputs.
            batch: The batch.
            progress: The step.
        """

    def end_step(self, batches: Sequence[Batch], progress: Progress) -> None:
        """Update what depends on the whole step; called without gradients, once after all calls of `after_step`.

        On several ranks each rank gets its own rows, and all ranks are called.

        Args:
            batches: The micro-batches of the step, on this rank.
            progress: The step, with its learning rate.
        """

    @property
    def heads(self) -> tuple[nn.Module, ...]:
        """The modules that several stages can share, so their state outlives a stage."""
        own = (
            next(self.parameters(recurse=False), None) is not None
            or next(self.buffers(recurse=False), None) is not None
        )
        return (self,) if own else tuple(self.children())

    def leaves(self) -> Iterator[tuple[LossTerm, Weigh]]:
        """This loss, with weight one."""
        yield self, _one

    def named_leaves(self) -> dict[str, tuple[LossTerm, Weigh]]:
        """This loss by its name."""
        return {self.name: (self, _one)}

    def __copy__(self) -> LossTerm:
        """A copy that shares parameters, buffers and modules, and may get more of its own, for `setup`."""
        copied = type(self).__new__(type(self))
        vars(copied).update(vars(self))
        # With shared dicts, a head that is added to the copy would appear in the original too.
        for kind in ("_parameters", "_buffers", "_modules"):
            vars(copied)[kind] = dict(vars(self)[kind])
        return copied


class Sum(Objective):
    """The sum of two or more objectives."""

    def __init__(self, *parts: Objective) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def leaves(self) -> Iterator[tuple[LossTerm, Weigh]]:
        """The losses of all parts, in order."""
        for part in self.parts:
            yield from cast(Objective, part).leaves()

    def setup(self, context: LossContext) -> Sum:
        """The sum of the parts for one stage."""
        return Sum(*(setup_objective(cast(Objective, part), context) for part in self.parts))

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.parts))


class Scaled(Objective):
    """An objective times a number or a `Schedule`.

    Raises:
        LimbeckError: If the number is not finite.
    """

    def __init__(self, objective: Objective, weight: Weight) -> None:
        super().__init__()
        if not isinstance(weight, Schedule) and not math.isfinite(weight):
            raise LimbeckError(f"An objective's weight must be a finite number; got {weight}.")
        self.objective = objective
        self.weight = weight

    def leaves(self) -> Iterator[tuple[LossTerm, Weigh]]:
        """The losses of the objective, with their weights multiplied."""
        for leaf, inner in self.objective.leaves():
            yield leaf, _product(self.weight, inner)

    def setup(self, context: LossContext) -> Scaled:
        """The objective for one stage, times the same weight."""
        return Scaled(setup_objective(self.objective, context), self.weight)

    def __repr__(self) -> str:
        inner = f"({self.objective!r})" if isinstance(self.objective, Sum) else repr(self.objective)
        return f"{self.weight!r} * {inner}"


def setup_objective(objective: Objective, context: LossContext) -> Objective:
    """Call ``objective.setup(context)`` and check that it returns an objective.

    Raises:
        LimbeckError: If it returns anything else, for example None.
    """
    result: object = objective.setup(context)
    if isinstance(result, Objective):
        return result
    raise LimbeckError(
        f"{type(objective).__name__}.setup returned {result!r}, but it must return the loss for the stage. Use "
        "`return self` if nothing depends on the stage."
    )


def weighted_loss(terms: Mapping[str, Term], counts: Mapping[str, float]) -> Tensor:
    """Compute the minimized value, ``sum of weight * total / count``. A term without values adds zero.

    A term of weight 0 adds zero even if it is infinite or NaN; it is then not in the graph.

    Args:
        terms: The terms of an objective for one batch.
        counts: The number of values of each term in the whole accumulation window, on all ranks.

    Returns:
        A scalar that is connected to the graph even if every count is zero.
    """
    parts = [term.total * (term.weight / (counts[name] or 1.0)) for name, term in terms.items() if term.weight != 0]
    if parts:
        return sum(parts[1:], start=parts[0])
    first = next(iter(terms.values()), None)
    return torch.zeros((), requires_grad=True) if first is None else first.total.new_zeros((), requires_grad=True)


def _one(progress: Progress) -> float:
    return 1.0


def _product(weight: Weight, inner: Weigh) -> Weigh:
    if isinstance(weight, Schedule):
        return lambda progress: weight(progress) * inner(progress)
    return lambda progress: weight * inner(progress)
