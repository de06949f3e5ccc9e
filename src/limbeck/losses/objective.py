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
    """What a stage minimizes. Objectives add and scale, and what comes out is an objective.

    Written ``0.1 * a + ramp(0.9) * b``: the weight first.
    Called with what the student and the teacher showed, it gives named `Term`s. The number that is minimized is
    ``sum of weight * total / count``, with counts taken from the batches of the whole accumulation window.
    It is a module only because heads learn.
    """

    @abstractmethod
    def leaves(self) -> Iterator[tuple[LossTerm, Weigh]]:
        """Every single loss in it with its weight, in the order written."""

    @property
    def requires(self) -> Requirements:
        """What it reads in student, teacher and batch; also at weight zero, so that weights are continuous."""
        requires = Requirements()
        for leaf, _ in self.leaves():
            requires = requires | leaf.preprocess
        return requires

    @property
    def temperatures(self) -> frozenset[float]:
        """At which temperatures its losses read the teacher's logits; also those that a schedule comes to."""
        return frozenset().union(*(leaf.own_temperatures for leaf, _ in self.leaves()))

    def named_leaves(self) -> dict[str, tuple[LossTerm, Weigh]]:
        """Every single loss under a name of its own; #2, #3 are put behind a name that repeats."""
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
        """The terms for one batch."""
        terms: dict[str, Term] = {}
        for name, (leaf, weigh) in self.named_leaves().items():
            total, count, _ = leaf.term(student, teacher, batch, progress)
            terms[name] = Term(total, count, weigh(progress))
        return terms

    def counts(self, batch: Batch) -> dict[str, float]:
        """How many values each loss will yield for `batch`, before anything is computed."""
        return {name: leaf.count(batch) for name, (leaf, _) in self.named_leaves().items()}

    @abstractmethod
    def fit(self, student: Outputs, teacher: Outputs, batch: Batch) -> Objective:
        """The objective for one stage, fitted to the shapes of its first batch; the engine calls it once a stage.

        Heads and whatever else learns are shared with this one; what depends on shapes is the returned one's own, so
        that one objective can be used in several stages whose data have other shapes. Lazy heads get their shape.

        Raises:
            LimbeckError: If the two sides cannot be compared.
        """

    def __add__(self, other: object) -> Objective:
        if not isinstance(other, Objective):
            return NotImplemented
        return Sum(self, other)

    def __radd__(self, other: object) -> Objective:
        """So that ``sum([a, b, c])`` is an objective: it begins with the number 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __rmul__(self, weight: object) -> Objective:
        if not isinstance(weight, (int, float, Schedule)):
            return NotImplemented
        return Scaled(self, weight)

    def __mul__(self, weight: object) -> Objective:
        raise LimbeckError(f"Write the weight first: {weight!r} * objective.")


class LossTerm(Objective, ABC):
    """A single loss: the part of an objective that yields one term."""

    name: str
    per: str
    own_temperatures: frozenset[float] = frozenset()
    """At which temperatures it reads the teacher's logits, where it knows."""

    @property
    @abstractmethod
    def preprocess(self) -> Requirements:
        """What it reads in the student, the teacher and the batch."""

    @abstractmethod
    def term(self, student: Outputs, teacher: Outputs, batch: Batch, progress: Progress) -> Term:
        """The sum of what counts, over how many values, for one batch."""

    @abstractmethod
    def count(self, batch: Batch) -> float:
        """How many values count in `batch`."""

    @abstractmethod
    def fit(self, student: Outputs, teacher: Outputs, batch: Batch) -> LossTerm:
        """The loss for one stage, fitted to the shapes of its first batch; itself where it takes none from it."""

    def leaves(self) -> Iterator[tuple[LossTerm, Weigh]]:
        """Itself, with weight one."""
        yield self, lambda _: 1.0


class Sum(Objective):
    """Two or more objectives, minimized together."""

    def __init__(self, *parts: Objective) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def leaves(self) -> Iterator[tuple[LossTerm, Weigh]]:
        """The parts' losses, in order."""
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
        """The objective's losses, each weighed."""
        for leaf, inner in self.objective.leaves():
            yield leaf, _product(self.weight, inner)

    def fit(self, student: Outputs, teacher: Outputs, batch: Batch) -> Scaled:
        """The fitted objective times the same weight."""
        return Scaled(fit(self.objective, student, teacher, batch), self.weight)

    def __repr__(self) -> str:
        inner = f"({self.objective!r})" if isinstance(self.objective, Sum) else repr(self.objective)
        return f"{self.weight!r} * {inner}"


def fit(objective: Objective, student: Outputs, teacher: Outputs, batch: Batch) -> Objective:
    """``objective.fit(...)``, once it is known to give an objective.

    Raises:
        LimbeckError: If it gives anything else, as a loss of one's own does whose ``fit`` returns nothing.
    """
    fitted: object = objective.fit(student, teacher, batch)
    if isinstance(fitted, Objective):
        return fitted
    raise LimbeckError(
        f"{type(objective).__name__}.fit returned {fitted!r}: it returns the fitted loss; type `return self` where "
        "nothing depends on shapes."
    )


def weighted_loss(terms: Mapping[str, Term], counts: Mapping[str, float]) -> Tensor:
    """The number that is minimized: ``sum of weight * total / count``; a term of which nothing counts adds zero.

    So does one of weight 0, also where it is infinite or no number, and then it is not in the graph.

    Args:
        terms: What an objective gave for one batch.
        counts: How many values each term has in the whole accumulation window, on all ranks.

    Returns:
        A scalar, connected to the graph also where every count is zero.
    """
    parts = [term.total * (term.weight / (counts[name] or 1.0)) for name, term in terms.items() if term.weight != 0]
    if not parts:
        return next(iter(terms.values())).total.new_zeros((), requires_grad=True)
    return sum(parts[1:], start=parts[0])


def _product(weight: Weight, inner: Weigh) -> Weigh:
    if isinstance(weight, Schedule):
        return lambda progress: weight(progress) * inner(progress)
    return lambda progress: weight * inner(progress)
