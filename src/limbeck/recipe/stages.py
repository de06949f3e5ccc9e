"""`Stage`, `Recipe` and how they combine: one after another, on one batch, or in parallel."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from limbeck.data import Loader
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.losses import Objective
from limbeck.recipe.optimizer import Optimizer, check_optimizer
from limbeck.teachers import Preprocess, Teacher, as_teacher

Models = Mapping[str, nn.Module]
ModelFactory = Callable[[Models], nn.Module]
"""The models there are -> a new one, made just before the first stage that names it."""
Ship = str | Callable[[Models], nn.Module]
"""The name of the model that is evaluated, saved and exported, or a function that builds it."""


class Part(ABC):  # noqa: B024 - its operators are whole, only its kinds are open
    """A piece of a recipe. Parts compose, and what comes out is a `Recipe`.

    * ``a >> b``: first a, then b; either may be a function of the models so far that returns a part;
    * ``a & b``: alternating on one batch, each with its own optimizer;
    * ``a | b``: independent of each other, in processes where cores allow.
    """

    def __rshift__(self, other: Part | Callable[[Models], Part]) -> Recipe:
        if not isinstance(other, Part) and not callable(other):
            return NotImplemented
        return Recipe(self, other)

    def __rrshift__(self, other: Callable[[Models], Part]) -> Recipe:
        """``function >> stage``: a recipe may begin with a function."""
        return Recipe(other, self) if callable(other) else NotImplemented

    def __and__(self, other: Part) -> Recipe:
        return Recipe(JointStages((*_stages(self), *_stages(other))), **_merge_settings(self, other))

    def __or__(self, other: Part) -> Recipe:
        return Recipe(ParallelStages((*_branches(self), *_branches(other))), **_merge_settings(self, other))


@dataclass(frozen=True)
class Stage(Part):
    """One model learns from one teacher, by one objective, for so long.

    Attributes:
        objective: What is minimized.
        trains: The name of the model that learns.
        teacher: A `Teacher`, or anything that becomes one: a module, an estimator, the name of a model of the run.
            None where the objective reads no teacher.
        optimizer: How its parameters move; the run's by default.
        loader: Where its batches come from; the run's by default.
        epochs: For how many passes over the source; this or `steps`, or the run's budget.
        steps: For how many optimizer steps.
        preprocess: The student's way from a batch to its inputs; the run's by default.
        name: What the stage is called in progress and metrics.

    Raises:
        LimbeckError: If it has both epochs and steps, if either is negative, or if its objective reads a teacher
            and there is none.
    """

    objective: Objective
    trains: str = "student"
    teacher: Any = None
    optimizer: Optimizer | None = None
    loader: Loader | None = None
    epochs: int | None = None
    steps: int | None = None
    preprocess: Preprocess | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.objective, Objective):
            kind = getattr(self.objective, "__name__", type(self.objective).__name__)
            raise LimbeckError(f"A stage minimizes an objective, not {kind}; lift a kernel with Loss({kind}).")
        check_optimizer(self.optimizer)
        if self.epochs is not None and self.steps is not None:
            raise LimbeckError(f"Give a stage epochs or steps, not both (epochs={self.epochs}, steps={self.steps}).")
        for unit, amount in (("epochs", self.epochs), ("steps", self.steps)):
            if amount is not None and (isinstance(amount, bool) or not isinstance(amount, int)):
                raise ArgumentError(
                    f"A stage lasts a whole number of epochs or steps; got {unit}={amount!r}.", argument=unit
                )
            if amount is not None and amount < 1:
                raise ArgumentError(f"A stage lasts at least one step; got {unit}={amount}.", argument=unit)
        if self.teacher is None and self.objective.requires.teacher:
            addresses = ", ".join(sorted(self.objective.requires.teacher))
            raise LimbeckError(
                f"The objective reads {addresses} in a teacher, and the stage has none: Stage(..., teacher=...)."
            )
        if self.teacher is not None and not isinstance(self.teacher, Teacher):
            object.__setattr__(self, "teacher", as_teacher(self.teacher))

    def describe(self) -> dict[str, Any]:
        """What a report says of it."""
        return {
            "stage": self.name,
            "objective": repr(self.objective),
            "trains": self.trains,
            "teacher": self.teacher.describe() if self.teacher is not None else None,
            "optimizer": self.optimizer.describe() if self.optimizer else None,
            "source": self.loader.fingerprint if self.loader is not None else None,
            "epochs": self.epochs,
            "steps": self.steps,
        }


@dataclass(frozen=True)
class JointStages(Part):
    """Stages that alternate on one batch, each with its own optimizer: peers, discriminators."""

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if any(stage.loader is not None for stage in self.stages[1:]):
            raise LimbeckError("Stages joined by & see the same batches; give the source to the first of them.")
        lengths = {(stage.epochs, stage.steps) for stage in self.stages} - {(None, None)}
        if len(lengths) > 1:
            raise LimbeckError(
                "Stages joined by & last equally long; give epochs or steps to one of them, or the same."
            )


@dataclass(frozen=True)
class ParallelStages(Part):
    """Recipes that have nothing to do with each other: the members of an ensemble, specialists."""

    branches: tuple[Recipe, ...]


@dataclass(frozen=True, init=False)
class Recipe(Part):
    """A method as data: its parts in order, the models it makes, and what it ships.

    Attributes:
        parts: Stages, groups of stages, or functions of the models so far that return a part.
        makes: Models that the recipe brings itself: name -> function of the models so far.
        ship: What is evaluated, saved and exported: a model's name, or a function that builds it.

    Raises:
        LimbeckError: If it has no part, or two makers share a name.

    Example:
        >>> from limbeck.functional import cross_entropy
        >>> from limbeck.losses import Loss
        >>> recipe = Stage(Loss(cross_entropy), epochs=1) >> Stage(Loss(cross_entropy), epochs=2)
        >>> [stage.epochs for stage in recipe.parts]
        [1, 2]
    """

    parts: tuple[Part | Callable[[Models], Part], ...]
    makes: Mapping[str, ModelFactory] = field(default_factory=dict)
    ship: Ship = "student"

    def __init__(
        self,
        *parts: Part | Callable[[Models], Part],
        makes: Mapping[str, ModelFactory] | None = None,
        ship: Ship | None = None,
    ) -> None:
        if not parts:
            raise LimbeckError("A recipe needs at least one stage: Recipe(Stage(objective, teacher=...)).")
        carried = _merge_settings(*(part for part in parts if isinstance(part, Part)))
        object.__setattr__(self, "parts", tuple(_flat(parts)))
        object.__setattr__(self, "makes", _join_factories(carried["makes"], makes or {}))
        object.__setattr__(self, "ship", ship or carried["ship"] or "student")

    def stages(self) -> Iterator[Stage]:
        """Every stage that is known before the run begins."""
        for part in self.parts:
            if isinstance(part, Stage):
                yield part
            elif isinstance(part, JointStages):
                yield from part.stages
            elif isinstance(part, ParallelStages):
                for branch in part.branches:
                    yield from branch.stages()


def _flat(parts: tuple[Part | Callable[[Models], Part], ...]) -> Iterator[Part | Callable[[Models], Part]]:
    for part in parts:
        if isinstance(part, Recipe):
            yield from part.parts
        elif isinstance(part, Part) or callable(part):
            yield part
        else:
            raise LimbeckError(f"A recipe is made of stages; got a {type(part).__name__}.")


def _stages(part: Part) -> tuple[Stage, ...]:
    parts = part.parts if isinstance(part, Recipe) else (part,)
    stages: list[Stage] = []
    for item in parts:
        if isinstance(item, Stage):
            stages.append(item)
        elif isinstance(item, JointStages) and len(parts) == 1:
            stages.extend(item.stages)
        else:
            raise LimbeckError("Only single stages alternate on one batch: stage & stage.")
    if len(stages) > 1 and not (len(parts) == 1 and isinstance(parts[0], JointStages)):
        raise LimbeckError(
            "Only single stages alternate on one batch; a recipe of several stages cannot stand beside &."
        )
    return tuple(stages)


def _branches(part: Part) -> tuple[Recipe, ...]:
    if isinstance(part, Recipe) and len(part.parts) == 1 and isinstance(part.parts[0], ParallelStages):
        return part.parts[0].branches
    if isinstance(part, ParallelStages):
        return part.branches
    return (part if isinstance(part, Recipe) else Recipe(part),)


def _merge_settings(*parts: Part) -> dict[str, Any]:
    """What composed recipes bring along: all their makers, and the last thing that one of them ships."""
    makes: Mapping[str, ModelFactory] = {}
    ship: Ship | None = None
    for part in parts:
        if isinstance(part, Recipe):
            makes = _join_factories(makes, part.makes)
            ship = part.ship if part.ship != "student" else ship
    return {"makes": makes, "ship": ship}


def _join_factories(mine: Mapping[str, ModelFactory], theirs: Mapping[str, ModelFactory]) -> dict[str, ModelFactory]:
    for name in set(mine) & set(theirs):
        if mine[name] is not theirs[name]:
            raise LimbeckError(f"Two parts of the recipe both make a model called {name!r}; rename one of them.")
    return {**mine, **theirs}
