"""The folder of a run: its files, the description of the run, and how it is resumed."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from limbeck.atomic_io import folder_lock, make_folder, remove, replace_folder
from limbeck.checksums import read_json, write_json
from limbeck.data import Loader
from limbeck.engine.checkpoint import to_device
from limbeck.engine.probe import first_line
from limbeck.engine.recipe_runner import RecipeRunner, RunModels
from limbeck.engine.train_config import Fabric, TrainConfig
from limbeck.errors import DataError, LimbeckError
from limbeck.losses import Loss
from limbeck.models import OtherModelError, save
from limbeck.recipe import JointStages, ParallelStages, Recipe, Stage
from limbeck.recipe.change import WrappedFunction
from limbeck.teachers.fingerprints import code_fingerprint
from limbeck.teachers.teacher import get_function_name


class RunFolder:
    """A run's folder: ``run.json``, ``metrics.jsonl``, ``checkpoint.safetensors`` and ``student/``.

    Without a path nothing is written. On several ranks only the first writes.

    Args:
        path: The folder, or None.
        resume: Whether to resume the run in the folder; otherwise it must not hold a run.
        writes: Whether this process writes.
        student: The student's folder; ``student/`` inside the run's folder by default.

    Raises:
        LimbeckError: If the folder already holds a run and `resume` is False.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, *, resume: bool, writes: bool, student: Path | None = None
    ) -> None:
        self.path = Path(path) if path is not None else None
        self._student = student
        self._writes = writes and self.path is not None
        self.started = self.path is not None and (self.path / "run.json").exists()
        self._own_student = False
        self._files_at_exit: list[tuple[int, int, int]] | None = None
        if self.path is None:
            return
        if self.path.exists() and not self.path.is_dir():
            raise LimbeckError(f"{self.path} is a file; a run needs a folder.")
        if not resume and self.started:
            raise LimbeckError(
                f"{self.path} already holds a run. Continue it with `limbeck resume {self.path}`, "
                "or choose another folder with --out (out=...)."
            )
        if self._writes:
            make_folder(self.path)

    @contextmanager
    def alone(self, fabric: Fabric) -> Iterator[None]:
        """A block with a lock on the folder; no other run may have used it since this one last did.

        The first rank checks and sends the result to all.

        Raises:
            LimbeckError: If another run uses the folder, or has used it.
        """
        with ExitStack() as stack:
            refused = None
            if self._writes and self.path is not None:
                try:
                    stack.enter_context(folder_lock(self.path))
                    self._check_untouched(self.path)
                except LimbeckError as error:
                    refused = str(error)
            if fabric.world_size > 1 and self.path is not None:
                refused = fabric.broadcast(refused)
            if refused is not None:
                raise LimbeckError(refused)
            try:
                yield
            finally:
                self._files_at_exit = self._state()

    def _check_untouched(self, path: Path) -> None:
        if self._files_at_exit is not None and self._files_at_exit != self._state():
            raise LimbeckError(
                f"Another run has continued in {path} since this one last used it. Resume from there with "
                "distill(..., resume=True)."
            )

    def _state(self) -> list[tuple[int, int, int]]:
        """Modification times and sizes of the folder's files, which change with every checkpoint and report."""
        names = ("run.json", "metrics.jsonl", "checkpoint.safetensors")
        files = [os.stat(self.path / name) for name in names if (self.path / name).exists()] if self.path else []
        return [(file.st_ino, file.st_mtime_ns, file.st_size) for file in files]

    @property
    def metrics(self) -> Path | None:
        """The file of JSON lines; None if nothing is written."""
        return self.path / "metrics.jsonl" if self.path is not None and self._writes else None

    @property
    def checkpoint(self) -> Path | None:
        """The file with the state that a resumed run continues from."""
        return self.path / "checkpoint.safetensors" if self.path is not None else None

    @property
    def student(self) -> Path | None:
        """The student's folder, complete at any moment."""
        return self._student or (self.path / "student" if self.path is not None else None)

    @property
    def writes(self) -> bool:
        """Whether this process writes anything."""
        return self._writes

    def describe(self, description: Mapping[str, Any]) -> None:
        """Write the description of the run: recipe, settings, data, environment."""
        if self._writes and self.path is not None:
            write_json(description, self.path / "run.json")

    def check_same(self, description: Mapping[str, Any]) -> None:
        """Refuse to resume a run with another recipe, settings or data, because its weights would belong to neither.

        Raises:
            LimbeckError: If recipe, setting or data differ from those in ``run.json``; the first field is named.
            DataError: If there is a checkpoint without a ``run.json`` that describes its run.
        """
        if self.path is None:
            return
        if not self.started:
            if self.checkpoint is not None and self.checkpoint.exists():
                raise DataError(
                    f"{self.path} is damaged: run.json is missing, so the run of its checkpoint is unknown. "
                    "Remove the folder to start the run again."
                )
            return
        now = json.loads(json.dumps(description, default=str))
        before = read_json(self.path / "run.json")
        for part in ("recipe", "functions", "setting", "data", "batch_sizes", "contents"):
            if part in ("batch_sizes", "contents") and part not in before:
                continue  # written by a version that did not hash functions
            difference = _difference(part, before.get(part), now.get(part))
            if difference is not None:
                field, old, new = difference
                raise LimbeckError(
                    f"{self.path} belongs to another run: {field} was {old!r} and is {new!r}. "
                    "Resume it with its old settings, or start in a new folder."
                )

    def save_student(self, model: nn.Module, metadata: Mapping[str, Any], tokenizer: Any = None) -> None:
        """Replace the student atomically.

        Args:
            model: The model to write.
            metadata: Further entries of its ``config.json``.
            tokenizer: The tokenizer of its texts. Its files are written once.
        """
        if not self._writes or self.student is None:
            return
        try:
            save(model, self.student, metadata=dict(metadata), tokenizer=None if self._own_student else tokenizer)
        except OtherModelError:
            # A recipe may change the student's structure, so its own folder may be replaced; that of another run never
            # is.
            if not (self.started or self._own_student):
                raise
            _swap_folder(self.student, model, metadata, tokenizer)
        self._own_student = True


def _swap_folder(folder: Path, model: nn.Module, metadata: Mapping[str, Any], tokenizer: Any) -> None:
    """Replace a model folder by one with another structure."""
    new = folder.with_name(f".{folder.name}.new.partial")
    remove(new)
    save(model, new, metadata=dict(metadata), tokenizer=tokenizer)
    replace_folder(new, folder)


def _difference(name: str, old: Any, new: Any) -> tuple[str, Any, Any] | None:
    """The first field in which two descriptions differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(f"{name}.{key}", old.get(key), new.get(key)) for key in {**old, **new}]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(f"{name}.{i}", *both) for i, both in enumerate(zip(old, new, strict=True))]
    else:
        return None if old == new else (name, old, new)
    return next((difference for pair in pairs if (difference := _difference(*pair)) is not None), None)


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
        "batch_sizes": [(stage.loader or loader).batch_size for stage in recipe.stages()] or [loader.batch_size],
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
    """Restore models, recipe and loader to the state from `holdings`; heads are restored when their stages start.

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


def not_resumable_error(where: Any, what: str) -> LimbeckError:
    """The error for a run that cannot be resumed because `what` has no position."""
    return LimbeckError(
        f"{where} cannot be resumed: {what} has no position to continue from. "
        "Use ShuffledLoader(ArrayDataset(inputs, labels), batch_size=...), or a loader with state_dict()."
    )
