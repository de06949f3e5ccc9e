"""What is a run, in words that a later one can be held against?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from limbeck.engine.setting import Setting
from limbeck.recipe import Apart, Recipe, Together
from limbeck.sources import Source
from limbeck.teachers.teacher import name_of


def described(recipe: Recipe, setting: Setting, source: Source) -> dict[str, Any]:
    """What a folder keeps of the run that began it: a run of another recipe, setting or data does not take it up."""
    stages = [{**stage.describe(), "reads": name_of(stage.reads)} for stage in recipe.stages()]
    fixed = {**setting.describe(), "reads": name_of(setting.reads)}
    return {"recipe": stages, "functions": _functions(recipe), "setting": fixed, "data": source.fingerprint}


def _functions(recipe: Recipe) -> dict[str, Any]:
    """The functions in a recipe by name, where they stand."""
    makes = {name: name_of(maker) for name, maker in recipe.makes.items()}
    ship = recipe.ship if isinstance(recipe.ship, str) else name_of(recipe.ship)
    return {"parts": _places(recipe), "makes": makes, "ship": ship}


def _places(recipe: Recipe) -> list[Any]:
    """For each part, what a function says of itself, or its name; what its branches hold; or how many stages it has."""
    found: list[Any] = []
    for part in recipe.parts:
        if isinstance(part, Apart):
            found.append([_places(branch) for branch in part.branches])
        elif isinstance(part, Together):
            found.append(len(part.stages))
        else:
            found.append(_function(part) if callable(part) else 1)
    return found


def _function(part: Callable[..., Any]) -> Any:
    says: Callable[[], Any] | None = getattr(part, "describe", None)
    return name_of(part) if says is None else says()
