"""Errors about keys of a job: the key that was meant, and what to type."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from limbeck.errors import LimbeckError, UnknownNameError, nearest, unknown_name_error
from limbeck.job.schema import Job, job_keys
from limbeck.job.settings import ENSEMBLE, SHALLOW, SHRINK, ModelSettings
from limbeck.job.several_teachers import SEVERAL
from limbeck.job.validation import ALIKE, check_is_argument
from limbeck.methods import method
from limbeck.methods import names as method_names
from limbeck.models import UserFile, argument_names

SYNONYMS = {"learning_rate": "lr", "num_epochs": "epochs", "num_train_epochs": "epochs", "eps": "epsilon"}
"""Names of other libraries for keys of a job, which are too different to be the nearest."""
_KIND = re.compile(r"(str|int|float|bool|literal\[.*|function-.*|dict\[.*)$")
"""Parts of a pydantic location that name a type of a union, not a key."""


def check_first_keys(job: Mapping[str, Any]) -> None:
    """Check the first keys of a job: none is unknown, and data, teacher and student are there.

    Raises:
        UnknownNameError: If one is unknown; the nearest is given, also one inside another key.
        LimbeckError: If one is missing.
    """
    for key in job:
        if key not in Job.model_fields:
            places = {**_dotted_keys(job), **{name: name for name in Job.model_fields}}
            near = places.get(nearest(SYNONYMS.get(str(key), str(key)), places) or "")
            if near is None or "." not in near:
                then = _flag([near]) if near else ""
                raise unknown_name_error("key in the job", str(key), Job.model_fields, then=then)
            raise UnknownNameError(f"Unknown key in the job {str(key)!r}. Did you mean {near!r}? {_flag([near])}")
    for key in ("data", "teacher", "student"):
        if job.get(key) is None:
            raise LimbeckError(f"The job has no {key}: type --{key} NAME, or add a line `{key}: NAME` to the job file.")


def _dotted_keys(job: Mapping[str, Any]) -> dict[str, str]:
    """The keys inside other keys, by their last part: ``budget.epochs`` by ``epochs``."""
    chosen = job.get("method") or "hinton"
    name = str(chosen.get("name", "hinton") if isinstance(chosen, Mapping) else chosen)
    settings = () if UserFile.parse(name) is not None or name not in method_names() else method(name).parameters
    dotted = {setting: f"method.{setting}" for setting in settings}
    for key in job_keys():
        place, dot, last = key.name.rpartition(".")
        if dot and place in ("budget", "data", "cache", "teacher", "student", "task"):
            before = dotted.get(last, "method.")
            dotted[last] = key.name if before.startswith("method.") or place == "budget" else before
    return dotted


def explain_invalid_job(error: Any, *, several: bool = False) -> LimbeckError:
    """The most useful of pydantic's errors as one sentence: an unknown key before a missing or a wrong value.

    A misspelled key is often missing too, under its right name, and the misspelled one is what the user sees.

    Args:
        error: The ``ValidationError``.
        several: Whether the key of the teachers in the job is ``teachers``.
    """
    errors = error.errors()
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    place = [str(part) for part in first["loc"] if not _KIND.match(str(part))]
    written = ["teachers", *place[2:]] if several and place[:2] == ["teacher", ENSEMBLE] else place
    if first["type"] == "extra_forbidden":
        return _unknown_key(written, _keys_in(_section(place[:-1])))
    value = first.get("input")
    if first["type"] == "missing" and isinstance(value, Mapping):
        others = [str(key) for key in value if key not in _keys_in(_section(place[:-1]))]
        meant = next((key for key in others if nearest(key, [place[-1]], least=ALIKE)), None)
        if meant is not None:
            return _unknown_key([*written[:-1], meant], [place[-1]])
    message = str(first["msg"]).removeprefix("Value error, ")
    return LimbeckError(
        f"{'.'.join(written) or 'the job'}: {message[0].lower() + message[1:]}; got {value!r}. "
        f"{_flag(written, _example(place))}".rstrip()
    )


def _unknown_key(place: Sequence[str], known: Iterable[str]) -> UnknownNameError:
    """The error for an unknown key, with the nearest of the known ones of its section."""
    names = sorted(known)
    near = SYNONYMS.get(place[-1])
    near = near if near in names else nearest(place[-1], names)
    hint = f" Did you mean {near!r}? {_flag([*place[:-1], near])}" if near else ""
    return UnknownNameError(f"Unknown key {'.'.join(place)!r} in the job.{hint} Known: {', '.join(names)}.")


def check_model_keys(job: Job) -> None:
    """Check the keys of the teachers and of the student, which are keys of the job or arguments of the model.

    Arguments of a user's function or of a library's model are not known here; of them, only a name that is nearly one
    of the keys of the job is refused for a library's model.

    Raises:
        UnknownNameError: If a key is neither; the nearest is given.
    """
    where = [job.teacher.place] if job.teacher.place == SEVERAL else ["teacher", ENSEMBLE]
    members = [([*where, name], member) for name, member in job.teacher.ensemble.items()]
    models: list[tuple[list[str], ModelSettings]] = [(["teacher"], job.teacher), *members, (["student"], job.student)]
    for place, settings in models:
        for key, value in settings.arguments.items():
            if value is not None:
                _check_model_key(place, key, settings)


def _check_model_key(place: list[str], key: str, settings: ModelSettings) -> None:
    fields = [name for name in type(settings).model_fields if name != "model"]
    arguments = argument_names(settings.model)
    if arguments is not None:
        if key not in arguments:
            raise _unknown_key([*place, key], [*arguments, *fields, "model"])
    elif UserFile.parse(settings.model) is None and settings.model not in (SHALLOW, SHRINK):
        check_is_argument([key], fields, ".".join(place))


def _section(place: Sequence[str]) -> type[BaseModel]:
    """The settings that hold the keys of a place of the job, which may go through mappings and lists."""
    owner: Any = Job
    for part in place:
        if isinstance(owner, type) and issubclass(owner, BaseModel):
            field = owner.model_fields.get(part)
            owner = None if field is None else field.annotation
        else:  # a name in a mapping, or a number in a list
            owner = get_args(owner)[-1] if get_origin(owner) is dict else get_args(owner)[0]
        owner = _without_none(owner)
    return owner if isinstance(owner, type) and issubclass(owner, BaseModel) else Job


def _without_none(annotation: Any) -> Any:
    """The settings among the types of a union."""
    several = [one for one in get_args(annotation) if inspect.isclass(one) and issubclass(one, BaseModel)]
    union = get_origin(annotation) not in (dict, tuple, list)
    return several[0] if several and union else annotation


def _keys_in(section: type[BaseModel]) -> list[str]:
    return list(section.model_fields)


def _example(place: Sequence[str]) -> str:
    """A valid value of a key: its default, if it has one."""
    field = _section(place[:-1]).model_fields.get(place[-1]) if place else None
    default = None if field is None else field.default
    return str(default) if isinstance(default, (int, float, str)) and not isinstance(default, bool) else "..."


def _flag(place: Sequence[str], value: str = "...") -> str:
    """The flag for a key; an item of a list is set with the whole list."""
    keys = [part for part in place if not part.isdecimal()]
    return f"Type --set {'.'.join(keys)}={value}, or set it in the job file." if keys else ""
