"""The key ``teachers`` of a job: several teachers by name, as the settings of one teacher."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.errors import LimbeckError
from limbeck.job.validation import check_is_argument
from limbeck.models import UserFile

SEVERAL = "teachers"
"""The model name of several teachers, which are averaged and have a cache each."""


def join_teachers(values: Any) -> Any:
    """The values of a job with its key ``teachers`` written as ``teacher``; they change existing teachers.

    Raises:
        LimbeckError: If there is another teacher too.
    """
    if not isinstance(values, Mapping) or values.get("teachers") is None:
        return values
    rest = {key: value for key, value in values.items() if key != "teachers"}
    several, before = name_models(values["teachers"]), rest.get("teacher")
    misplaced = [name for name in several if isinstance(before, Mapping) and name in before]
    if misplaced:
        raise LimbeckError(
            f"teacher.{misplaced[0]}: {misplaced[0]!r} is one of several teachers. Type --set "
            f"teachers.{misplaced[0]}.KEY=..., not --set teacher.{misplaced[0]}.KEY=..."
        )
    if isinstance(before, Mapping) and before.keys() <= _OF_ALL:
        before = {"model": SEVERAL, **before}
    if isinstance(before, Mapping) and "model" not in before:
        check_is_argument(before.keys() - _OF_ALL, _OF_ALL, "teacher")
    if before is not None and not (isinstance(before, Mapping) and before.get("model") == SEVERAL):
        raise LimbeckError(
            "The job has teacher: and teachers:; give one of the two keys. Beside teachers:, teacher: holds only what "
            f"all teachers have: {', '.join(sorted(_OF_ALL))}."
        )
    before = dict(before or {"model": SEVERAL})
    named = {name: dict(one) for name, one in (before.get("ensemble") or {}).items()}
    for name, one in several.items():
        named[name] = _merge_teacher(named.get(name, {}), one)
    return {**rest, "teacher": {**before, "ensemble": named}}


_OF_ALL = frozenset({"train", "adversarial", "check", "mean"})
"""The keys of ``teacher`` that a job with ``teachers`` may have: they are those of all teachers."""


def _merge_teacher(before: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one of several teachers; a changed value of its training keeps the other ones."""
    merged = {**before, **changes}
    for key in ("train", "adversarial"):
        if isinstance(before.get(key), Mapping) and isinstance(changes.get(key), Mapping):
            merged[key] = {**before[key], **changes[key]}
    return merged


def name_models(models: Any) -> dict[str, Any]:
    """Models by name; those of a list are named by their files or functions."""
    if isinstance(models, Mapping):
        return {str(name): _named_model(one) for name, one in models.items()}
    if not isinstance(models, Sequence) or isinstance(models, str):
        raise LimbeckError(f"Several teachers are a list of models, or a mapping of names to models; got {models!r}.")
    named: dict[str, Any] = {}
    for one in models:
        settings = _named_model(one)
        base = name = _short_name(str(settings.get("model") or "served"))
        number = 1
        while name in named:
            number += 1
            name = f"{base}-{number}"
        named[name] = settings
    return named


def is_url(value: Any) -> bool:
    """Whether the name of a model is the address of a server.

    Example:
        >>> is_url("http://localhost:8000/v1"), is_url("hf:gpt2")
        (True, False)
    """
    return isinstance(value, str) and value.startswith(("http://", "https://"))


def _named_model(settings: Any) -> dict[str, Any]:
    if isinstance(settings, str):
        return {"url": settings} if is_url(settings) else {"model": settings}
    if not isinstance(settings, Mapping):
        raise LimbeckError(f"A teacher is the name of a model, or a mapping with the key model; got {settings!r}.")
    return dict(settings)


def _short_name(model: str) -> str:
    own = UserFile.parse(model)
    name = own.function if own is not None else Path(model.rpartition(":")[2]).stem
    return re.sub(r"[^\w-]+", "-", name) or "model"
