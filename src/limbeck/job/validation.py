"""Bounds on the values of a job, and its extra metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.errors import LimbeckError, unknown_name_error

MAX_BYTES = 1_000_000

"""Of a job file; a page of text is some thousand."""

_MOST_VALUES = 20_000

_DEEPEST = 20

_LARGEST = 2**63

_LONGEST = 255

"""Bytes of a name between two slashes: no file system takes a longer one."""


def check_bounds(value: Any, who: str) -> None:
    """Refuse values that no job needs, and that would take all memory or end in a traceback further on.

    A few lines of YAML can stand for any number of values, since an alias repeats what an anchor holds; what is counted
    here is what they stand for.

    Raises:
        LimbeckError: If the value is nested too deep or holds itself, stands for too many values, or holds a control
            character, a name or a whole number that is too large, or another type than a job has. `who` begins it.
    """
    waiting, count = [(value, 0, "")], 0
    while waiting:
        one, depth, key = waiting.pop()
        count += 1
        if depth > _DEEPEST:
            raise LimbeckError(f"{who} is nested more than {_DEEPEST} deep, or holds itself; no job is.")
        if count > _MOST_VALUES:
            raise LimbeckError(f"{who} stands for more than {_MOST_VALUES:,} values; no job needs so many.")
        if isinstance(one, Mapping):
            waiting += [(name, depth + 1, key) for name in one]
            waiting += [(inner, depth + 1, str(name)) for name, inner in one.items()]
        elif isinstance(one, (list, tuple)):
            waiting += [(inner, depth + 1, key) for inner in one[: _MOST_VALUES + 1]]
        else:
            _check(one, f"{who}, in the key {key[:60]!r}," if key else who)


def _check(value: Any, who: str) -> None:
    if isinstance(value, str):
        if any((ord(c) < 32 and c not in "\t\n\r") or 0xD800 <= ord(c) < 0xE000 for c in value):
            raise LimbeckError(f"{who} holds a text with a control character: {value[:60]!r}.")
        if any(len(part.encode()) > _LONGEST for part in value.split("/")):
            raise LimbeckError(
                f"{who} holds a name that is too long, {value[:40]!r}...: {_LONGEST} bytes are the most."
            )
    elif isinstance(value, int):
        if abs(value) >= _LARGEST:
            raise LimbeckError(f"{who} holds a whole number that is too large: 2^63 - 1 is the largest.")
    elif isinstance(value, (bytes, set, frozenset)):
        raise LimbeckError(f"{who} holds a {type(value).__name__}; a job holds texts, numbers, lists and mappings.")


EXTRA_METRICS = ("cka", "corruptions", "groups")

"""What costs more than the answers to the test data: layers set beside the teacher's, images gone bad; and groups."""


def as_list(value: Any) -> Any:
    """One name is a list of one."""
    return [value] if isinstance(value, str) else [] if value is None else value


def check_extra_metrics(names: tuple[str, ...]) -> None:
    """Refuse what nobody measures, and what is asked for twice.

    Raises:
        UnknownNameError: With the nearest name.
        LimbeckError: If a name stands there twice.
    """
    for name in names:
        if name not in EXTRA_METRICS:
            raise unknown_name_error("name in also", name, EXTRA_METRICS, then="Every other measure is taken anyway.")
        if names.count(name) > 1:
            raise LimbeckError(f"{name!r} stands twice in also; name each once.")
