"""Matches names with different spelling to known names, and orders the names of classes."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from limbeck.batch import IGNORED
from limbeck.errors import DataError, nearest

_SHOWN = 40  # characters of a value in a message
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
"""A regular expression for a number: digits, a point, an exponent."""
_TRUE = frozenset(("true", "t", "yes", "y", "on", "1"))
_FALSE = frozenset(("false", "f", "no", "n", "off", "0"))


def match_names(names: Iterable[str], known_names: Sequence[str]) -> dict[str, str]:
    """Match each of `names` to a known name: itself, or the only similar one.

    Two names are similar if they differ only in surrounding spaces, case, or number format (1, 1.0, 01). True and
    false also match 1 and 0, yes and no, t and f.

    Args:
        names: The names in a table.
        known_names: The names in the training part.

    Returns:
        Mapping name -> known name, without names that match none or several.

    Example:
        >>> match_names(["male", "F", "other"], ["Male", "f"])
        {'male': 'Male', 'F': 'f'}
    """
    exact, unmatched = set(known_names), list(names)
    matches = {name: name for name in unmatched if name in exact}
    for form in (str.strip, _folded, _number, _truth):
        alike = _group_by_form(form, known_names)
        for name in unmatched:
            key = form(name)
            if name not in matches and key is not None and len(alike.get(key, ())) == 1:
                matches[name] = alike[key][0]
    return {name: matches[name] for name in unmatched if name in matches}


def encode_classes(
    labels: Sequence[str | None], classes: Sequence[str], *, file: str | Path, where: str
) -> tuple[np.ndarray, list[str]]:
    """Convert labels to class indices, -100 for none; a label with another spelling than a class is matched to it.

    Args:
        labels: The label of each row.
        classes: The classes in order.
        file: The file, for messages.
        where: The column, for messages, such as ``in column 'kind'``.

    Returns:
        The indices, int64, and a note on labels with another spelling, if there are any.

    Raises:
        DataError: If a label matches no class.
    """
    matched = match_names(dict.fromkeys(label for label in labels if label is not None), classes)
    for row, label in enumerate(labels):
        if label is not None and label not in matched:
            expected = ", ".join(classes[:12])
            raise DataError(f"{file}: row {row} has the class {quoted(label)} {where}, which is not one of {expected}.")
    moved = {label: name for label, name in matched.items() if label != name}
    numbers = {name: number for number, name in enumerate(classes)}
    indices = [IGNORED if label is None else numbers[matched[label]] for label in labels]
    return np.array(indices, dtype=np.int64), [matching_note(f"{Path(file).name}: {where}", moved)] if moved else []


def matching_note(where: str, moved: Mapping[str, str]) -> str:
    """A note on names that were matched to names of the training part with another spelling."""
    listed = ", ".join(f"{quoted(name)} as {quoted(target)}" for name, target in list(moved.items())[:4])
    more = f" and {len(moved) - 4} more" if len(moved) > 4 else ""
    return f"{where}, {listed}{more} was read, as in the training part."


def quoted(text: str) -> str:
    """Quote a value for a message; long values are shortened."""
    return repr(text) if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]!r}..."


def find_similar_names(names: Iterable[str]) -> list[str]:
    """Groups of names that differ only in case, spaces or accent encoding, each as "'Yes' and 'yes'".

    Example:
        >>> find_similar_names(["Yes", "yes", "no"])
        ["'Yes' and 'yes'"]
    """
    forms: dict[str, list[str]] = {}
    for name in names:
        forms.setdefault(_folded(unicodedata.normalize("NFKC", name)), []).append(name)
    return [" and ".join(map(ascii, group)) for group in forms.values() if len(group) > 1]


def is_number(text: str) -> bool:
    """Whether a string is a number: digits, a point, an exponent."""
    return re.fullmatch(NUMBER[:-1], text) is not None


def _group_by_form(form: Callable[[str], str | None], known_names: Sequence[str]) -> dict[str, list[str]]:
    alike: dict[str, list[str]] = {}
    for name in known_names:
        if (key := form(name)) is not None:
            alike.setdefault(key, []).append(name)
    # Match yes/no and the like only if all known names are truth values.
    return alike if form is not _truth or sum(map(len, alike.values())) == len(known_names) else {}


def _folded(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())


def _number(name: str) -> str | None:
    text = name.strip()
    return f"{float(text):.17g}" if is_number(text) else None


def _truth(name: str) -> str | None:
    text = name.strip().casefold().removesuffix(".0")
    return "true" if text in _TRUE else "false" if text in _FALSE else None


def sorted_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Sort class names: by value if all are numbers, else alphabetically.

    Example:
        >>> sorted_classes(["10", "2", "1"]), sorted_classes(["10", "2", "b"])
        (('1', '2', '10'), ('10', '2', 'b'))
    """
    unique = sorted(set(names))
    return tuple(sorted(unique, key=_value) if all(math.isfinite(_value(name)) for name in unique) else unique)


def order_classes(classes: tuple[str, ...], order: Sequence[str], *, who: str) -> tuple[str, ...]:
    """Return the classes in the order that the user set.

    Args:
        classes: The classes of the data.
        order: The order; empty leaves `classes` as they are. It may contain classes that the data lack.
        who: Start of the error message.

    Raises:
        DataError: If `order` lacks a class or contains one twice.
    """
    if not order:
        return classes
    lacking = [name for name in classes if name not in order]
    if lacking:
        near = nearest(lacking[0], order)
        suggestion = f" It contains {near!r}: is that the same class?" if near else ""
        raise DataError(
            f"{who}: class_names lacks the class {lacking[0]!r}.{suggestion} The data have: {', '.join(classes[:12])}."
        )
    if len(set(order)) != len(order):
        raise DataError(f"class_names contains a class twice: {', '.join(order[:12])}.")
    return tuple(order)


def _value(name: str) -> float:
    try:
        return float(name)
    except ValueError:
        return math.nan
