"""Recipes made of recipes: every stage changed, and rounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from limbeck.errors import ArgumentError
from limbeck.recipe.stages import JointStages, Models, ParallelStages, Part, Recipe, Stage
from limbeck.teachers.teacher import get_function_name


def change_stages(recipe: Recipe, change: Callable[[Stage], Stage]) -> Recipe:
    """The same recipe, makers and what it ships included, with `change` applied to each of its stages.

    A function in the recipe stays a function: what it returns, when its turn comes, is changed too.

    Args:
        recipe: The recipe; it is left as it is.
        change: Stage -> stage.

    Example:
        >>> from dataclasses import replace
        >>> from limbeck.functional import cross_entropy
        >>> from limbeck.losses import Loss
        >>> recipe = Stage(Loss(cross_entropy), epochs=1) >> (lambda models: Stage(Loss(cross_entropy), epochs=9))
        >>> changed = change_stages(recipe, lambda stage: replace(stage, epochs=None, steps=1))
        >>> changed.parts[0].steps, changed.parts[1]({}).parts[0].steps
        (1, 1)
    """
    return Recipe(*(_change_part(part, change) for part in recipe.parts), makes=recipe.makes, ship=recipe.ship)


def _change_part(
    part: Part | Callable[[Models], Part], change: Callable[[Stage], Stage]
) -> Part | Callable[[Models], Part]:
    if isinstance(part, Stage):
        return change(part)
    if isinstance(part, JointStages):
        return JointStages(tuple(map(change, part.stages)))
    if isinstance(part, ParallelStages):
        return ParallelStages(tuple(change_stages(branch, change) for branch in part.branches))
    if isinstance(part, Recipe):
        return change_stages(part, change)
    return part if isinstance(part, Part) else _ChangedFunction(part, change)


def rounds(count: int, make: Callable[[int, Models], Part]) -> Recipe:
    """A recipe of several rounds: generations, federated rounds, a student that teaches its teacher.

    ``make(number, models)`` is called when a round begins, so it may look at the models as they are then. A resumed run
    calls it again with the same models and random numbers.

    Args:
        count: The number of rounds.
        make: A function of the number of the round, from 0, and the models of the run, which returns a part: a stage,
            ``a >> b``, ``a & b``. It must not keep anything from one call to the next.

    Raises:
        ArgumentError: If `count` is not a whole number of at least 1.

    Example:
        >>> from limbeck.functional import cross_entropy
        >>> from limbeck.losses import Loss
        >>> recipe = rounds(3, lambda number, models: Stage(Loss(cross_entropy), epochs=1 + number))
        >>> [part({}).epochs for part in recipe.parts]
        [1, 2, 3]
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ArgumentError(f"rounds() takes a whole number of at least 1; got {count!r}.", argument="count")
    return Recipe(*(_Round(make, number, count) for number in range(count)))


@dataclass(frozen=True)
class _Round:
    """One round of a recipe."""

    make: Callable[[int, Models], Part]
    number: int
    count: int

    @property
    def __name__(self) -> str:
        return f"round {self.number} of {get_function_name(self.make)}"

    def __call__(self, models: Models) -> Part:
        return self.make(self.number, models)


@dataclass(frozen=True)
class _ChangedFunction:
    """A function in a recipe, and then the change of what it returns."""

    function: Callable[[Models], Part]
    change: Callable[[Stage], Stage]

    @property
    def __name__(self) -> str:
        return str(get_function_name(self.function))

    def __call__(self, models: Models) -> Any:
        part = self.function(models)
        # What is no part is refused, by the function's name, where it is asked.
        return change_stages(Recipe(part), self.change) if isinstance(part, Part) else part

    def describe(self) -> Any:
        """What the function says of itself, or its name."""
        says: Callable[[], Any] | None = getattr(self.function, "describe", None)
        return get_function_name(self.function) if says is None else says()
