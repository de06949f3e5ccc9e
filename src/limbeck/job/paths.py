"""Which job means the same in every working folder?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from limbeck.job.budget import Budget
from limbeck.job.schema import SHALLOW, Cache, Job, Method
from limbeck.models import UserFile, reference_names
from limbeck.models.library import LibraryModel
from limbeck.sources.published import PUBLISHED, data_folders


def absolute(job: Job) -> Job:
    """The same job with every path in it absolute, but for ``out``, which moves with the run's folder.

    Names stay names; a published data set that is found in ``./data`` is looked for there from now on.
    """
    return job.model_copy(
        update={
            "data": _data(job.data),
            "budget": _budget(job.budget),
            "teacher": job.teacher.model_copy(
                update={
                    "model": _name(job.teacher.model),
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


def _budget(budget: Budget) -> Budget:
    """The budget with the files of its transforms whole."""
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
    if name in (*reference_names(), SHALLOW):
        return name
    if (library := LibraryModel.parse(name)) is not None:
        weights = None if library.weights is None else library.weights.absolute()
        return str(library._replace(weights=weights))
    whole = _own_file(name)
    return str(Path(name).absolute()) if whole == name and Path(name).is_dir() else whole


def _method(method: Method) -> Method:
    named = {key: _own_file(value) for key, value in method.hyper.items() if isinstance(value, str)}
    return method.model_copy(update={"name": _own_file(method.name), **named})


def _own_file(name: str) -> str:
    """``my.py:function`` with its paths whole. A folder that is called as a method is does not matter."""
    own = UserFile.parse(name)
    if own is None:
        return name
    weights = f"@{own.weights.absolute()}" if own.weights else ""
    return f"{own.file.absolute()}:{own.function}{weights}"


def _cache(cache: Cache | None) -> Cache | None:
    """An address stays as it is, and so does no folder: the answers are then in the run's."""
    if cache is None or cache.folder is None or "://" in cache.folder:
        return cache
    return cache.model_copy(update={"folder": str(Path(cache.folder).absolute())})


def _data(data: str | dict[str, Any]) -> str | dict[str, Any]:
    given: dict[str, Any] = dict(data) if isinstance(data, dict) else {"name": data}
    name = str(given.get("name", ""))
    for key in ("folder", "test", "val", "tokenizer"):
        if given.get(key) is not None:
            given[key] = str(Path(given[key]).absolute())
    if UserFile.parse(name) is not None:
        given["name"] = _own_file(name)
    elif name in PUBLISHED:
        given |= {} if given.get("folder") is not None else _found(name)
    elif name and name != "digits" and Path(name).exists():
        given["name"] = str(Path(name).absolute())
    return given if len(given) > 1 or isinstance(data, dict) else given["name"]


def _found(name: str) -> dict[str, str]:
    """The folder of the working folder in which a published set lies, if it lies in one."""
    known = PUBLISHED[name]
    for place in data_folders():
        if any((place / f"{stem}.npz").is_file() for stem in (name, known.subset) if stem):
            return {} if place.is_absolute() else {"folder": str(place.absolute())}
    return {}
