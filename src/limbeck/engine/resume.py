"""Resuming a run: the description that must be equal, and the state that it continues from."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from limbeck.data import Loader
from limbeck.engine.checkpoint import to_device
from limbeck.engine.probe import first_line
from limbeck.engine.recipe_runner import RecipeRunner, RunModels
from limbeck.engine.train_config import TrainConfig
from limbeck.errors import LimbeckError
from limbeck.losses import Loss
from limbeck.recipe import JointStages, ParallelStages, Recipe, Stage
from limbeck.recipe.change import WrappedFunction
from limbeck.teachers.fingerprints import code_fingerprint
from limbeck.teachers.teacher import get_function_name

_RESUMABLE = "Use ShuffledLoader(ArrayDataset(inputs, labels), batch_size=...), or a loader with state_dict()."


def describe_run(recipe: Recipe, setting: TrainConfig, loader: Loader) -> dict[str, Any]:
    """The description of a run in its folder; only a run with the same recipe, settings and data can resume it."""
    stages = [{**stage.describe(), "preprocess": get_function_name(stage.preprocess)} for stage in recipe.stages()]
    fixed = {**setting.describe(), "preprocess": get_function_name(setting.preprocess)}
    contents = {
        path: content
        for path, function in _list_functions(recipe, setting)
        if (content := _describe_content(function)) is not None
    }
    return {
        "recipe": stages,
        "functions": _functions(recipe),
        "setting": fixed,
        "data": loader.fingerprint,
        "batch_sizes": [stage.find_loader(loader).batch_size for stage in recipe.stages()] or [loader.batch_size],
        "contents": contents,
    }


def _functions(recipe: Recipe) -> dict[str, Any]:
    """The names of the functions in a recipe, at their positions."""
    makes = {name: get_function_name(maker) for name, maker in recipe.makes.items()}
    ship = recipe.ship if isinstance(recipe.ship, str) else get_function_name(recipe.ship)
    return {"parts": _map_functions(recipe, _describe_function), "makes": makes, "ship": ship}


def _map_functions(recipe: Recipe, describe: Callable[[Any], Any]) -> list[Any]:
    """For each part: the description of a function, the contents of its branches, or its number of stages."""
    values: list[Any] = []
    for part in recipe.parts:
        if isinstance(part, ParallelStages):
            values.append([_map_functions(branch, describe) for branch in part.branches])
        elif isinstance(part, JointStages):
            values.append(len(part.stages))
        else:
            values.append(1 if isinstance(part, Stage) else describe(part))
    return values


@runtime_checkable
class Describes(Protocol):
    """A function that describes itself, such as an object with settings."""

    def describe(self) -> Any:
        """Its entry in ``run.json``."""
        ...


def _describe_function(part: Any) -> Any:
    inner = part.inner if isinstance(part, WrappedFunction) else part
    return inner.describe() if isinstance(inner, Describes) else get_function_name(inner)


def _list_functions(recipe: Recipe, setting: TrainConfig) -> Iterator[tuple[str, Any]]:
    """All functions in a run's settings and recipe, by position."""
    yield "preprocess", setting.preprocess
    adaptors = setting.adaptor if isinstance(setting.adaptor, Mapping) else {"": setting.adaptor}
    yield from ((f"adaptor {name}".strip(), adaptor) for name, adaptor in adaptors.items())
    parts: list[Any] = []
    _map_functions(recipe, parts.append)
    yield from ((f"part {number}", part) for number, part in enumerate(parts))
    yield from ((f"makes {name}", maker) for name, maker in recipe.makes.items())
    yield "ship", None if isinstance(recipe.ship, str) else recipe.ship
    for number, stage in enumerate(recipe.stages()):
        yield f"stage {number} preprocess", stage.preprocess
        for name in ("preprocess", "adaptor"):
            teacher = vars(stage.teacher) if stage.teacher is not None else {}
            yield f"stage {number} teacher {name}", teacher.get(name)
        for name, (leaf, _) in stage.objective.named_leaves().items():
            yield f"stage {number} loss {name}", leaf.kernel.function if isinstance(leaf, Loss) else None


def _describe_content(function: Any) -> dict[str, Any] | None:
    """The arguments of a partial, and a hash of a function's code and closure; None if it describes itself."""
    function = function.inner if isinstance(function, WrappedFunction) else function
    if not callable(function) or isinstance(function, Describes):
        return None
    description: dict[str, Any] = {}
    if isinstance(function, functools.partial):
        description = {"arguments": {str(place): _to_readable(one) for place, one in enumerate(function.args)}}
        description["arguments"] |= {name: _to_readable(one) for name, one in function.keywords.items()}
    return {**description, "content": code_fingerprint(function, weights=False)}


def _to_readable(value: Any) -> Any:
    """A readable form of a value: numbers and strings unchanged, the type of anything else."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _to_readable(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_readable(one) for one in value]
    return get_function_name(value) if callable(value) else type(value).__name__


def state_dict(models: RunModels, course: RecipeRunner, loader: Loader) -> dict[str, Any]:
    """The present state of models, heads, models at function calls, and the position in the data."""
    return {
        "exact": loader.resumable,
        "source": loader.state_dict() if loader.resumable else None,
        "models": {name: dict(model.state_dict()) for name, model in models.existing.items()},
        "heads": {name: dict(head.state_dict()) for name, head in course.heads().items()},
        "asked": course.call_states,
    }


def load_state_dict(
    state: Mapping[str, Any],
    models: RunModels,
    course: RecipeRunner,
    loader: Loader,
    *,
    device: torch.device,
    where: Any,
) -> dict[nn.Module, Any]:
    """Restore models, recipe and loader to the state from `state_dict`; heads are restored when their stages start.

    Raises:
        LimbeckError: If the state is of another run; `where` is the folder for the message.
    """

    def load(states: Mapping[str, Any]) -> None:
        for name, saved in states.items():
            if name in models:
                models[name].load_state_dict(to_device(saved, device))

    try:
        course.restore_calls(state["asked"], load)
        load(state["models"])
        if state["source"] is not None:
            loader.load_state_dict(state["source"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise LimbeckError(
            f"{where} was written by a run of other models or another recipe: {first_line(error)} "
            "Resume with those that it began with."
        ) from error
    # A head has no shape, and so no state, before its stage begins.
    return {head: state["heads"][name] for name, head in course.heads().items() if state["heads"].get(name)}


def not_resumable_warning(where: Any, loader: Loader) -> str:
    """What to say before the first step of a run whose loader has no position."""
    return (
        f"A {loader.type_name} has no position to continue from, so this run cannot be resumed if it is killed: "
        f"{where} will hold its student, not a checkpoint. {_RESUMABLE}"
    )


def not_resumable_error(where: Any, what: str) -> LimbeckError:
    """The error for a run that cannot be resumed because `what` has no position."""
    return LimbeckError(f"{where} cannot be resumed: {what} has no position to continue from. {_RESUMABLE}")
