"""Bounds on the values of a job, and its extra metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.errors import LimbeckError, unknown_name_error

MAX_BYTES = 1_000_000

"""Largest size of a job file. A usual one has about a thousand bytes."""

_MOST_VALUES = 20_000

_DEEPEST = 20

_LARGEST = 2**63

_LONGEST = 255

"""Longest name in a path, in bytes: the limit of the common file systems."""


def check_bounds(value: Any, who: str) -> None:
    """Refuse values that would use up all memory or fail later.

    A few lines of YAML can expand to any number of values through aliases; the expanded values are counted.

    Args:
        value: The value.
        who: The start of the message.

    Raises:
        LimbeckError: If the value is nested too deep or contains itself, expands to too many values, or contains a
            control character, a name or integer that is too large, or an unsupported type.
    """
    waiting, count = [(value, 0, "")], 0
    while waiting:
        one, depth, key = waiting.pop()
        count += 1
        if depth > _DEEPEST:
            raise LimbeckError(f"{who} is nested more than {_DEEPEST} levels deep, or contains itself.")
        if count > _MOST_VALUES:
            raise LimbeckError(f"{who} expands to more than {_MOST_VALUES:,} values.")
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
            raise LimbeckError(f"{who} contains a control character: {value[:60]!r}.")
        if any(len(part.encode()) > _LONGEST for part in value.split("/")):
            raise LimbeckError(
                f"{who} contains a name that is too long, {value[:40]!r}...: at most {_LONGEST} bytes are allowed."
            )
    elif isinstance(value, int):
        if abs(value) >= _LARGEST:
            raise LimbeckError(f"{who} contains an integer that is too large: the largest is 2^63 - 1.")
    elif isinstance(value, (bytes, set, frozenset)):
        raise LimbeckError(f"{who} contains a {type(value).__name__}; use strings, numbers, lists and mappings.")


EXTRA_METRICS = ("cka", "corruptions", "groups")

"""Metrics that cost more than predictions on the test data: similarity of layers, corrupted images, groups."""


def as_list(value: Any) -> Any:
    """Wrap one name in a list; None is an empty list."""
    return [value] if isinstance(value, str) else [] if value is None else value


def check_extra_metrics(names: tuple[str, ...]) -> None:
    """Check the names of extra metrics.

    Raises:
        UnknownNameError: If a name is unknown; the nearest is given.
        LimbeckError: If a name is listed twice.
    """
    for name in names:
        if name not in EXTRA_METRICS:
            raise unknown_name_error("name in also", name, EXTRA_METRICS, then="All other metrics are always computed.")
        if names.count(name) > 1:
            raise LimbeckError(f"{name!r} is listed twice in also; list each name once.")
