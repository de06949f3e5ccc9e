"""Matches names with different spelling to known names, and orders the names of classes."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from limbeck.errors import DataError, nearest

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
