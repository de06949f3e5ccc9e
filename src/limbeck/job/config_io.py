"""Read a job from a file and flags, and write it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from limbeck.atomic_io import is_file
from limbeck.checksums import add_checksum_line, is_unchanged, json_text
from limbeck.errors import DataError, LimbeckError, LimbeckWarning
from limbeck.job.key_advice import check_first_keys, check_model_keys, explain_invalid_job
from limbeck.job.paths import (
    PLACES,
    make_relative,
    read_places,
    restore_private_paths,
    split_private_paths,
    with_absolute_paths,
)
from limbeck.job.run_layout import RunLayout, method_arms
from limbeck.job.schema import Job
from limbeck.job.several_teachers import SEVERAL, join_teachers
from limbeck.job.validation import MAX_BYTES, check_bounds

_SCIENTIFIC = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")


def read_job(path: str | Path, *, as_shown: bool = False, edited: bool = False) -> dict[str, Any]:
    """Read the mapping in a job file. Relative paths stay relative.

    In a run's folder, ``.places.json`` has the absolute paths, so that the job works from every working directory.

    Args:
        path: The file.
        as_shown: Keep the paths as they are in the file, for output that is shared.
        edited: Do not warn if the file was changed after limbeck wrote it.

    Raises:
        LimbeckError: If the file is missing, is not YAML, or does not contain a mapping.
    """
    file = Path(path)
    if not is_file(file):
        raise LimbeckError(
            f"There is no job file {str(path)!r}. `limbeck distill --print-job ...` writes one from flags."
        )
    try:
        if file.stat().st_size > MAX_BYTES:
            raise LimbeckError(f"{path} has {file.stat().st_size / 1e6:.1f} MB, which is too large for a job file.")
        text = file.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise LimbeckError(f"{path} cannot be read: {error}.") from error
    unchanged = is_unchanged(text)
    if not edited and unchanged is False:
        warnings.warn(f"{path} was edited or damaged after limbeck wrote it.", LimbeckWarning, stacklevel=2)
    content = _values(text, who=str(path), written_here=unchanged is True)
    if not isinstance(content, dict):
        raise LimbeckError(
            f"{path} must contain keys such as data:, teacher:, student:; it contains a {type(content).__name__}."
        )
    job = {str(key): value for key, value in content.items()}
    return job if as_shown or file.name not in _WITH_PLACES else restore_private_paths(job, read_places(file.parent))


_WITH_PLACES = ("job.yaml", "best.yaml")
"""Names of the job files that runs and searches write."""


def read_run_job(folder: Path, *, as_shown: bool = False) -> dict[str, Any]:
    """Read the job in a run's folder, as limbeck wrote it.

    Args:
        folder: The run's folder.
        as_shown: As in `read_job`.

    Raises:
        LimbeckError: If the file is missing, was edited, or is damaged.
    """
    file = RunLayout(folder).job
    job = read_job(file, as_shown=as_shown, edited=True)
    if is_unchanged(file.read_text(encoding="utf-8")) is False:
        raise DataError(
            f"{file} was edited or is damaged: its SHA-256 differs from the one in its last line. If you edited it on "
            "purpose, remove the last line and the first line."
        )
    return job


def with_settings(job: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """A copy of `job` with each ``key.path=value`` set; values are parsed as YAML.

    Raises:
        LimbeckError: If a setting does not have the form ``key=value``.

    Example:
        >>> with_settings({"student": "mlp"}, ["student.hidden=[8, 8]", "budget.epochs=3"])
        {'student': {'model': 'mlp', 'hidden': [8, 8]}, 'budget': {'epochs': 3}}
    """
    changed: dict[str, Any] = dict(job)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise LimbeckError(f"--set takes key=value, such as --set budget.epochs=5; got {setting!r}.")
        value = _values(text, who=f"--set {key}: {text!r}")
        if key == "search" and value is not None and not Path(str(value)).is_dir():
            raise LimbeckError(f"--set {setting}: there is no folder {value}; name the folder of a search, or null.")
        _set(changed, _keys(changed, key), value, setting=setting)
    return changed


def make_job(values: Mapping[str, Any]) -> Job:
    """A checked job.

    Raises:
        LimbeckError: If a key is unknown (the message names the nearest) or missing, or a value is invalid.
    """
    from pydantic import ValidationError

    check_bounds(values, "The job")
    values = join_teachers(values)
    check_first_keys(values)
    try:
        job = Job.model_validate(dict(values))
    except ValidationError as error:
        raise explain_invalid_job(error, several=_has_several(values)) from error
    # A validator may fail on a value of a type that it does not expect.
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise LimbeckError(f"The job has an invalid value: {type(error).__name__}, {error}.") from error
    check_model_keys(job)
    return job


def job_text(job: Job) -> str:
    """The text of the job's file, including defaults."""
    return _text(_dumped(job))


def run_job_texts(job: Job, folder: Path) -> dict[str, str]:
    """The texts of the job's files in a run's folder: ``job.yaml``, and ``.places.json``, which is private."""
    public, places = split_private_paths(_dumped(job), _dumped(with_absolute_paths(job)), read_places(folder))
    return {PLACES: json_text(places), "job.yaml": add_checksum_line(_text(public))}


def search_job_texts(best: Job, folder: Path, *, omit: Sequence[str]) -> dict[str, str]:
    """The texts of the best job's files in a search's folder: ``.places.json`` and ``best.yaml``.

    Args:
        best: The job.
        folder: The search's folder.
        omit: Keys to leave out, so that the next run can choose them.
    """
    public, places = split_private_paths(_dumped(best), _dumped(with_absolute_paths(best)), {})
    public = {key: value for key, value in public.items() if key not in omit}
    places = {name: one for name, one in places.items() if name.split(".")[0] in public}
    return {PLACES: json_text(make_relative(places, folder)), "best.yaml": add_checksum_line(_text(public))}


def _dumped(job: Job) -> dict[str, Any]:
    return {**job.model_dump(mode="json"), "arms": list(job.arms)}


def _text(dumped: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(dumped), sort_keys=False, allow_unicode=True)


def _values(text: str, *, who: str, written_here: bool = False) -> Any:
    """Parse YAML 1.2 numbers: 1e-3 is a number, which YAML 1.1 (and PyYAML) parses as a string.

    Args:
        text: The text.
        who: What it is, for messages.
        written_here: Whether limbeck wrote it. libyaml reads such a text in a quarter of the time. PyYAML's own parser
            reads all others, because the two differ in messages and in what they accept, such as tabs.
    """
    import yaml

    try:
        values = yaml.load(text, Loader=_yaml_loader(fast=written_here and yaml.__with_libyaml__))
        check_bounds(values, who if len(who) < 200 else f"{who[:200]}...")
        return values
    except yaml.YAMLError as error:
        marked = error if isinstance(error, yaml.MarkedYAMLError) else None
        where = marked.problem_mark if marked is not None else None
        line = f", line {where.line + 1}" if where is not None and "\n" in text else ""
        raise LimbeckError(f"{who} is not YAML{line}: {(marked and marked.problem) or error}.") from error
    # PyYAML converts what looks like a number with Python's functions, which raise their own errors.
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        reason = "its brackets are nested too deep" if isinstance(error, RecursionError) else str(error)
        raise LimbeckError(f"{who[:200]} is not YAML: {reason[:200].rstrip('.')}.") from error


@cache
def _yaml_loader(*, fast: bool) -> Any:
    import yaml

    base: Any = yaml.CSafeLoader if fast else yaml.SafeLoader

    class JobYamlLoader(base):
        """A safe loader with its own resolvers; a date is parsed as text, since no job has dates."""

    JobYamlLoader.yaml_implicit_resolvers = {
        first: [one for one in several if one[0] != "tag:yaml.org,2002:timestamp"]
        for first, several in base.yaml_implicit_resolvers.items()
    }
    JobYamlLoader.add_implicit_resolver("tag:yaml.org,2002:float", _SCIENTIFIC, list("-+.0123456789"))
    return JobYamlLoader


def _keys(job: Mapping[str, Any], text: str) -> list[str]:
    """Split ``first.second.third`` at its dots, but not inside the name of an arm, which may contain dots."""
    first, _, rest = text.partition(".")
    arms = _arm_places(job) if first in ("methods", "budgets") else {}
    arm = max((arm for arm in arms if f"{rest}.".startswith(f"{arm}.")), key=len, default=None)
    if arm is None:
        return text.split(".")
    inner = rest[len(arm) + 1 :]
    return [first, arm, *(inner.split(".") if inner else ())]


def _arm_places(job: Mapping[str, Any]) -> dict[str, int]:
    """The index of each arm's method in the job's list of methods; the full path of a method is accepted too."""
    methods = job.get("methods")
    names = [_named(one) for one in methods] if isinstance(methods, (list, tuple)) else []
    places = {arm: place for place, arm in enumerate(method_arms(names))}
    for place, name in enumerate(names):
        places.setdefault(name, place)
    return places


def _named(method: Any) -> str:
    return str(method.get("name", "hinton") if isinstance(method, Mapping) else method)


def _set(mapping: dict[str, Any], keys: list[str], value: Any, *, setting: str) -> None:
    first, rest = keys[0], keys[1:]
    if not rest:
        mapping[first] = value
        return
    inner = mapping.get(first)
    if first == "methods" and isinstance(inner, (list, tuple)):
        mapping[first] = _set_in_one(inner, rest, value, setting=setting)
        return
    if isinstance(inner, str):
        inner = {"name" if first in ("method", "data", "encoding", "task") else "model": inner}
    if inner is not None and not isinstance(inner, Mapping):
        raise LimbeckError(f"--set {setting}: {first} is {inner!r}, which holds no {'.'.join(rest)}.")
    inner = dict(inner or {})
    _set(inner, rest, value, setting=setting)
    mapping[first] = inner


def _has_several(values: Mapping[str, Any]) -> bool:
    """Whether the key of the teachers in the job is ``teachers``."""
    return isinstance(values.get("teacher"), Mapping) and values["teacher"].get("model") == SEVERAL


def _set_in_one(methods: Sequence[Any], keys: list[str], value: Any, *, setting: str) -> list[Any]:
    """Set ``methods.NAME.KEY=VALUE``: a key of the method of that name."""
    named = _arm_places({"methods": methods})
    if keys[0] not in named or len(keys) < 2:
        raise LimbeckError(
            f"--set {setting}: name the method and its key, methods.NAME.KEY=VALUE, where NAME is "
            f"one of {', '.join(named)}."
        )
    place = named[keys[0]]
    one = methods[place]
    changed = dict(one) if isinstance(one, Mapping) else {"name": one}
    _set(changed, keys[1:], value, setting=setting)
    return [*methods[:place], changed, *methods[place + 1 :]]
