"""Objectives: losses that add and scale."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import cast

from torch import Tensor, nn

from limbeck.batch import Batch, Outputs, Progress, Requirements, Term
from limbeck.errors import LimbeckError
from limbeck.schedule import Schedule

Weight = float | int | Schedule
Weigh = Callable[[Progress], float]


class Objective(nn.Module, ABC):
    """The loss that a stage minimizes. Sums and multiples of objectives are objectives.

    Write ``0.1 * a + ramp(0.9) * b``, with the weight first. A call with the outputs of student and teacher returns
    named `Term`s. The minimized value is ``sum of weight * total / count``, with counts taken from the batches of the
    whole accumulation window. An objective is a module because its heads can have parameters.
    """

    @abstractmethod
    def leaves(self) -> Iterator[tuple[LossTerm, Weigh]]:
        """All single losses with their weights, in the order written."""

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

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> dict[str, Term]:
        """Compute the terms for one batch."""
        terms: dict[str, Term] = {}
        for name, (leaf, weigh) in self.named_leaves().items():
            total, count, _ = leaf.term(student, teacher, batch, progress)
            terms[name] = Term(total, count, weigh(progress))
        return terms

    def counts(self, batch: Batch) -> dict[str, float]:
        """Count the values of each loss for `batch`, before the forward pass."""
        return {name: leaf.count(batch) for name, (leaf, _) in self.named_leaves().items()}

    @abstractmethod
    def fit(self, student: Outputs, teacher: Outputs, batch: Batch) -> Objective:
        """Return the objective for one stage, fitted to the shapes of its first batch.

        The engine calls it once per stage. Heads and other parameters are shared with this objective. State that
        depends on shapes belongs to the returned objective, so one objective can be used in several stages with data of
        different shapes. Lazy heads get their shape.

        Raises:
            LimbeckError: If student and teacher cannot be compared.
        """

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
    """A single loss: the part of an objective that returns one term."""

    name: str
    per: str
    own_temperatures: frozenset[float] = frozenset()
    """The temperatures that it applies to the teacher's logits, if known."""

    @property
    @abstractmethod
    def requires(self) -> Requirements:
        """The outputs of student and teacher and the batch columns that it needs."""

    @abstractmethod
    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """Compute the sum of the values that count, and their number, for one batch."""

    @abstractmethod
    def count(self, batch: Batch) -> float:
        """Count the values of `batch`."""

    @abstractmethod
    def fit(self, student: Outputs, teacher: Outputs, batch: Batch) -> LossTerm:
        """Return the loss for one stage, fitted to the shapes of its first batch. By default the loss itself."""

    def leaves(self) -> Iterator[tuple[LossTerm, Weigh]]:
        """This loss, with weight one."""
        yield self, lambda _: 1.0


class Sum(Objective):
    """The sum of two or more objectives."""

    def __init__(self, *parts: Objective) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def leaves(self) -> Iterator[tuple[LossTerm, Weigh]]:
        """The losses of all parts, in order."""
        for part in self.parts:
            yield from cast(Objective, part).leaves()

    def fit(self, student: Outputs, teacher: Outputs, batch: Batch) -> Sum:
        """The sum of the fitted parts."""
        return Sum(*(fit(cast(Objective, part), student, teacher, batch) for part in self.parts))

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

    def fit(self, student: Outputs, teacher: Outputs, batch: Batch) -> Scaled:
        """The fitted objective times the same weight."""
        return Scaled(fit(self.objective, student, teacher, batch), self.weight)

    def __repr__(self) -> str:
        inner = f"({self.objective!r})" if isinstance(self.objective, Sum) else repr(self.objective)
        return f"{self.weight!r} * {inner}"


def fit(objective: Objective, student: Outputs, teacher: Outputs, batch: Batch) -> Objective:
    """Call ``objective.fit(...)`` and check that it returns an objective.

    Raises:
        LimbeckError: If it returns anything else, for example None.
    """
    fitted: object = objective.fit(student, teacher, batch)
    if isinstance(fitted, Objective):
        return fitted
    raise LimbeckError(
        f"{type(objective).__name__}.fit returned {fitted!r}, but it must return the fitted loss. Use `return self` "
        "if nothing depends on shapes."
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
    if not parts:
        return next(iter(terms.values())).total.new_zeros((), requires_grad=True)
    return sum(parts[1:], start=parts[0])


def _product(weight: Weight, inner: Weigh) -> Weigh:
    if isinstance(weight, Schedule):
        return lambda progress: weight(progress) * inner(progress)
    return lambda progress: weight * inner(progress)
