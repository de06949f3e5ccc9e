"""Paths in a job: made absolute for the run, and kept out of files that are shared."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from limbeck.checksums import read_json
from limbeck.data.builtin_datasets import IMAGE_DATASETS, data_folders
from limbeck.errors import DataError, LimbeckError
from limbeck.job.budget import Budget
from limbeck.job.run_layout import shared_path
from limbeck.job.schema import Job
from limbeck.job.settings import (
    ENSEMBLE,
    SHALLOW,
    SHRINK,
    CacheSettings,
    MemberSettings,
    MethodSettings,
    TeacherSettings,
)
from limbeck.job.several_teachers import SEVERAL
from limbeck.models import UserFile, reference_names
from limbeck.models.hub import LibraryModel
from limbeck.teachers import EstimatorFile


def with_absolute_paths(job: Job) -> Job:
    """The job with absolute paths, except ``out``, which moves with the run's folder.

    Names are unchanged. A built-in data set in ``./data`` gets the absolute path of that folder.
    """
    return job.model_copy(
        update={
            "data": _data(job.data),
            "budget": _budget(job.budget),
            "teacher": job.teacher.model_copy(
                update={
                    **_served_tokenizer(job.teacher),
                    "model": _name(job.teacher.model) if job.teacher.url is None else job.teacher.model,
                    "ensemble": {
                        name: one.model_copy(
                            update={
                                **_served_tokenizer(one),
                                "model": _name(one.model) if one.url is None else one.model,
                                "train": None if one.train is None else _budget(one.train),
                            }
                        )
                        for name, one in job.teacher.ensemble.items()
                    },
                    "train": None if job.teacher.train is None else _budget(job.teacher.train),
                }
            ),
            "student": job.student.model_copy(update={"model": _name(job.student.model)}),
            "method": _method(job.method),
            "methods": tuple(_method(one) for one in job.methods),
            "cache": _cache(job.cache),
            "search": None if job.search is None else str(Path(job.search).absolute()),
            "metrics": tuple(_own_file(name) for name in job.metrics),
            "track": None if job.track is None else _own_file(job.track),
        }
    )


def _served_tokenizer(teacher: TeacherSettings | MemberSettings) -> dict[str, str]:
    """The absolute folder of the tokenizer of a served teacher; nothing where it has none, or a name."""
    place = teacher.arguments.get("tokenizer") if teacher.url is not None else None
    return {} if place is None or str(place).startswith("hf:") else {"tokenizer": str(Path(str(place)).absolute())}


def _budget(budget: Budget) -> Budget:
    """The budget with absolute paths of its transforms' files."""
    several = budget.augment if isinstance(budget.augment, list) else [budget.augment]
    named = [
        {_own_file(str(name)): options for name, options in one.items()}
        if isinstance(one, dict)
        else _own_file(one)
        if isinstance(one, str)
        else one
        for one in several
    ]
    return budget.model_copy(update={"augment": named if isinstance(budget.augment, list) else named[0]})


def _name(name: str) -> str:
    if name in (*reference_names(), SHALLOW, SHRINK, ENSEMBLE, SEVERAL):
        return name
    if (library := LibraryModel.parse(name)) is not None:
        weights = None if library.weights is None else library.weights.absolute()
        return str(library._replace(weights=weights))
    if (estimator := EstimatorFile.parse(name)) is not None:
        return str(EstimatorFile(estimator.path.absolute()))
    whole = _own_file(name)
    return str(Path(name).absolute()) if whole == name and Path(name).is_dir() else whole


def _method(method: MethodSettings) -> MethodSettings:
    named = {key: _own_file(value) for key, value in method.hyper.items() if isinstance(value, str)}
    return method.model_copy(update={"name": _own_file(method.name), **named})


def _own_file(name: str) -> str:
    """``my.py:function`` with absolute paths."""
    own = UserFile.parse(name)
    if own is None:
        return name
    weights = f"@{own.weights.absolute()}" if own.weights else ""
    return f"{own.file.absolute()}:{own.function}{weights}"


def _cache(cache: CacheSettings | None) -> CacheSettings | None:
    """The cache with an absolute folder; an address, or None for the run's folder, is unchanged."""
    if cache is None or cache.folder is None or "://" in cache.folder:
        return cache
    return cache.model_copy(update={"folder": str(Path(cache.folder).absolute())})


def _data(data: str | dict[str, Any]) -> str | dict[str, Any]:
    options: dict[str, Any] = dict(data) if isinstance(data, dict) else {"name": data}
    name = str(options.get("name", ""))
    for key in ("folder", "test", "val", "tokenizer", "cache_dir"):
        if options.get(key) is not None and not str(options[key]).startswith("hf:"):
            options[key] = str(Path(options[key]).absolute())
    if UserFile.parse(name) is not None:
        options["name"] = _own_file(name)
    elif name in IMAGE_DATASETS:
        options |= {} if options.get("folder") is not None else _find_folder(name)
    elif name and name != "digits" and Path(name).exists():
        options["name"] = str(Path(name).absolute())
    return options if len(options) > 1 or isinstance(data, dict) else options["name"]


def _find_folder(name: str) -> dict[str, str]:
    """The option ``folder`` of a built-in data set that lies in a relative data folder; else no option."""
    dataset = IMAGE_DATASETS[name]
    for place in data_folders():
        if any((place / f"{stem}.npz").is_file() for stem in (name, dataset.subset) if stem):
            return {} if place.is_absolute() else {"folder": str(place.absolute())}
    return {}


PLACES = ".places.json"

"""The file with absolute paths. It is private: reports and exports do not include it."""


def split_private_paths(
    typed: Mapping[str, Any], whole: Mapping[str, Any], previous: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a job into a version that can be shared, and the private absolute paths.

    Args:
        typed: The job as the user typed it.
        whole: The job with absolute paths.
        previous: Earlier private paths of the folder, which keep their public names.

    Returns:
        The job in which absolute paths are shortened to the part below the working directory or to the name, and
        key -> ``{"shown": ..., "path": ...}``.
    """
    public = json.loads(json.dumps(whole))
    places: dict[str, Any] = {}
    for keys, mine, path in list(_differing(typed, whole, ())):
        name = ".".join(map(str, keys))
        before = previous.get(name)
        written = before["shown"] if isinstance(before, Mapping) and before.get("path") == path else _shared(mine)
        if written != path:
            places[name] = {"shown": written, "path": path}
            _put(public, keys, written)
    return public, places


def restore_private_paths(job: Mapping[str, Any], places: Mapping[str, Any]) -> dict[str, Any]:
    """Put the private paths back into a job, except for values that were edited since and paths that do not exist."""
    restored: dict[str, Any] = json.loads(json.dumps(job, default=str))
    for name, one in places.items():
        keys = _keys(restored, name)
        if keys is None or not isinstance(one, Mapping):
            continue
        written, path = one.get("shown"), one.get("path")
        is_trusted = _fits(written, path) or isinstance(one.get("inside"), str)
        if _get(restored, keys) == written and is_trusted and (path_exists(path) or not path_exists(written)):
            _put(restored, keys, path)
    return restored


def read_places(folder: Path) -> dict[str, Any]:
    """Read the private paths of a run's folder; empty if the file is missing or damaged.

    Paths inside the folder are relative to it (`make_relative`), so the folder can be moved.
    """
    try:
        places = read_json(folder / PLACES)
    except DataError:
        return {}
    return {name: _here(one, folder) for name, one in places.items()}


def make_relative(places: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Make private paths inside the folder relative to it, so that the folder can be moved.

    Args:
        places: As returned by `split_private_paths`.
        folder: The folder that the paths are written to.
    """
    whole, relative = folder.absolute(), {}
    for name, one in places.items():
        path = one["path"]
        within = isinstance(path, str) and Path(path).is_relative_to(whole)
        relative[name] = {"shown": one["shown"], "inside": str(Path(path).relative_to(whole))} if within else one
    return relative


def _here(one: Any, folder: Path) -> Any:
    """The absolute path of a place inside the folder."""
    part = one.get("inside") if isinstance(one, Mapping) else None
    if not isinstance(part, str) or Path(part).is_absolute() or ".." in Path(part).parts:
        return one
    return {**one, "path": str(folder.absolute() / part)}


def hide_private_paths(text: str, folder: Path) -> str:
    """Remove private paths from a text to be shared, such as a page about the run in `folder`."""
    for one in read_places(folder).values():
        if isinstance(one, Mapping) and isinstance(one.get("shown"), str) and isinstance(one.get("path"), str):
            text = text.replace(one["path"], one["shown"])
    if folder.is_absolute():
        text = text.replace(str(folder), shared_path(folder))
    for place in (Path.cwd(), Path.home()):
        if len(place.parts) > 1:
            text = text.replace(f"{place}/", "")
    return text


def _differing(typed: Any, whole: Any, keys: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """The keys at which a job has a relative path that was made absolute, or an absolute path."""
    if isinstance(typed, Mapping) and isinstance(whole, Mapping) and typed.keys() == whole.keys():
        for key in whole:
            yield from _differing(typed[key], whole[key], (*keys, key))
    elif isinstance(typed, list) and isinstance(whole, list) and len(typed) == len(whole):
        for place, pair in enumerate(zip(typed, whole, strict=True)):
            yield from _differing(*pair, (*keys, place))
    elif typed != whole or (isinstance(whole, str) and _shared(whole) != whole):
        yield keys, typed, whole


_LIBRARIES = ("hf", "timm", "sklearn")


def _shared(value: Any) -> Any:
    """A value without absolute paths."""
    if isinstance(value, Mapping):
        return {key: _shared(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_shared(one) for one in value]
    if not isinstance(value, str):
        return value
    try:
        own = UserFile.parse(value)
    except LimbeckError:
        own = None
    if own is not None:
        weights = f"@{shared_path(own.weights)}" if own.weights else ""
        return f"{shared_path(own.file)}:{own.function}{weights}"
    library, colon, rest = value.partition(":")
    if colon and library in _LIBRARIES:
        return f"{library}:{shared_path(rest)}" if Path(rest).is_absolute() else value
    return shared_path(value) if Path(value).is_absolute() else value


def _fits(name: Any, path: Any) -> bool:
    """Whether a private path ends with the name in the job: a damaged file must not redirect a name elsewhere."""
    if isinstance(path, Mapping):
        return str(path.get("name", "")).endswith(Path(str(name)).name) if isinstance(name, str) else False
    if not (isinstance(name, str) and isinstance(path, str)):
        return False
    library, colon, rest = name.partition(":")
    file = rest if colon and library in _LIBRARIES else name
    return path.endswith(Path(file).name)


def path_exists(value: Any) -> bool:
    """Whether a file, a folder, or the file of a function exists."""
    if isinstance(value, Mapping):
        return Path(str(value.get("folder", value.get("name", "")))).exists()
    try:
        own = UserFile.parse(str(value))
    except LimbeckError:
        return False
    return own.file.exists() if own is not None else Path(str(value)).exists()


def _keys(job: Any, name: str) -> tuple[Any, ...] | None:
    """The keys of a dotted name; None if the job has no such key."""
    keys: list[Any] = []
    for part in name.split("."):
        key: Any = int(part) if isinstance(job, list) and part.isdecimal() else part
        if not (isinstance(job, Mapping) and key in job) and not (
            isinstance(job, list) and isinstance(key, int) and key < len(job)
        ):
            return None
        keys.append(key)
        job = job[key]
    return tuple(keys)


def _get(job: Any, keys: tuple[Any, ...]) -> Any:
    for key in keys:
        job = job[key]
    return job


def _put(job: Any, keys: tuple[Any, ...], value: Any) -> None:
    _get(job, keys[:-1])[keys[-1]] = value
