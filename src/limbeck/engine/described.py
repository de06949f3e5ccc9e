"""What is a run, in words that a later one can be held against?"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from limbeck.engine.setting import Setting
from limbeck.recipe import Apart, Recipe, Together
from limbeck.sources import Source
from limbeck.teachers.content import content_of
from limbeck.teachers.teacher import name_of


def described(recipe: Recipe, setting: Setting, source: Source) -> dict[str, Any]:
    """What a folder keeps of the run that began it: a run of another recipe, setting or data does not take it up."""
    stages = [{**stage.describe(), "reads": name_of(stage.reads)} for stage in recipe.stages()]
    fixed = {**setting.describe(), "reads": name_of(setting.reads)}
    contents = {place: found for place, function in _held(recipe, setting) if (found := _content(function)) is not None}
    return {
        "recipe": stages,
        "functions": _functions(recipe),
        "setting": fixed,
        "data": source.fingerprint,
        "contents": contents,
    }


def _functions(recipe: Recipe) -> dict[str, Any]:
    """The functions in a recipe by name, where they stand."""
    makes = {name: name_of(maker) for name, maker in recipe.makes.items()}
    ship = recipe.ship if isinstance(recipe.ship, str) else name_of(recipe.ship)
    return {"parts": _places(recipe, _named), "makes": makes, "ship": ship}


def _places(recipe: Recipe, of: Callable[[Callable[..., Any]], Any]) -> list[Any]:
    """For each part, what `of` says of a function; what its branches hold; or how many stages it has."""
    found: list[Any] = []
    for part in recipe.parts:
        if isinstance(part, Apart):
            found.append([_places(branch, of) for branch in part.branches])
        elif isinstance(part, Together):
            found.append(len(part.stages))
        else:
            found.append(of(part) if callable(part) else 1)
    return found


def _named(part: Callable[..., Any]) -> Any:
    says: Callable[[], Any] | None = getattr(part, "describe", None)
    return name_of(part) if says is None else says()


def _held(recipe: Recipe, setting: Setting) -> Iterator[tuple[str, Any]]:
    """All functions that a run was given, each under a place."""
    yield "reads", setting.reads
    adaptors = setting.adaptor if isinstance(setting.adaptor, Mapping) else {"": setting.adaptor}
    yield from ((f"adaptor {name}".strip(), adaptor) for name, adaptor in adaptors.items())
    parts: list[Any] = []
    _places(recipe, parts.append)
    yield from ((f"part {number}", part) for number, part in enumerate(parts))
    yield from ((f"makes {name}", maker) for name, maker in recipe.makes.items())
    yield "ship", None if isinstance(recipe.ship, str) else recipe.ship
    for number, stage in enumerate(recipe.stages()):
        yield f"stage {number} reads", stage.reads
        for name in ("reads", "adaptor"):
            yield f"stage {number} teacher {name}", getattr(stage.teacher, name, None)
        for name, (leaf, _) in stage.objective.named_leaves().items():
            yield f"stage {number} loss {name}", getattr(getattr(leaf, "kernel", None), "function", None)


def _content(function: Any) -> dict[str, Any] | None:
    """A partial's arguments, and a hash of what a function is made of and holds; None where it describes itself."""
    if not callable(function) or hasattr(function, "describe"):
        return None
    given: dict[str, Any] = {}
    if isinstance(function, functools.partial):
        given = {"arguments": {str(place): _plain(one) for place, one in enumerate(function.args)}}
        given["arguments"] |= {name: _plain(one) for name, one in function.keywords.items()}
    return {**given, "content": content_of(function, weights=False)}


def _plain(value: Any) -> Any:
    """A value for people to read: numbers and words as they are, of anything else its kind."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return name_of(value) if callable(value) else type(value).__name__
