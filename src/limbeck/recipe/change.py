"""A recipe with every stage changed, including those that its functions bring later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class _ChangedFunction:
    """A function in a recipe, and then the change of what it returns."""

    function: Callable[[Models], Part]
    change: Callable[[Stage], Stage]

    @property
    def __name__(self) -> str:
        return getattr(self.function, "__name__", "function")

    def __call__(self, models: Models) -> Any:
        part = self.function(models)
        # What is no part is refused, by the function's name, where it is asked.
        return change_stages(Recipe(part), self.change) if isinstance(part, Part) else part

    def describe(self) -> Any:
        """What the function says of itself, or its name."""
        says: Callable[[], Any] | None = getattr(self.function, "describe", None)
        return get_function_name(self.function) if says is None else says()
