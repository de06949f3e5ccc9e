"""Changes of all stages of a recipe, and recipes of several rounds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, final

from limbeck.errors import ArgumentError
from limbeck.recipe.stages import JointStages, Models, ParallelStages, Part, Recipe, Stage
from limbeck.teachers.teacher import get_function_name


def change_stages(recipe: Recipe, change: Callable[[Stage], Stage]) -> Recipe:
    """The same recipe with `change` applied to each of its stages; `makes` and `ship` stay the same.

    A function in the recipe stays a function; the part that it returns is changed too.

    Args:
        recipe: The recipe; it is not modified.
        change: Function from a stage to a stage.

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

    ``make(number, models)`` is called when a round begins, so it can use the models' present weights. A resumed run
    calls it again with the same models and random numbers.

    Args:
        count: The number of rounds.
        make: A function of the number of the round, from 0, and the models of the run, which returns a part: a stage,
            ``a >> b``, ``a & b``. It must not hold state between calls.

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
    return Recipe(*(Round(make, number) for number in range(count)))


class WrappedFunction(ABC):
    """A function in a recipe that calls another one, `inner`; descriptions are those of `inner`."""

    inner: Callable[..., Part]

    @property
    def __name__(self) -> str:
        return str(get_function_name(self.inner))

    @abstractmethod
    def __call__(self, models: Models) -> Any:
        """The part that the function returns."""


@final
class Round(WrappedFunction):
    """One round of a recipe."""

    def __init__(self, make: Callable[[int, Models], Part], number: int) -> None:
        self.inner = make
        self.number = number

    def __call__(self, models: Models) -> Part:
        """The part of this round."""
        return self.inner(self.number, models)


@final
class _ChangedFunction(WrappedFunction):
    """A function in a recipe with a change of the part that it returns."""

    def __init__(self, function: Callable[[Models], Part], change: Callable[[Stage], Stage]) -> None:
        self.inner = function
        self.change = change

    def __call__(self, models: Models) -> Any:
        part = self.inner(models)
        # The caller raises for a value that is not a part, because it knows the function's name.
        return change_stages(Recipe(part), self.change) if isinstance(part, Part) else part
