"""Names written otherwise in another table, matched to the known ones."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
"""A regular expression for a number: digits, a point, an exponent."""
_TRUE = frozenset(("true", "t", "yes", "y", "on", "1"))
_FALSE = frozenset(("false", "f", "no", "n", "off", "0"))


def match_names(names: Iterable[str], known_names: Sequence[str]) -> dict[str, str]:
    """Which known name each of `names` means, where that is plain: itself, or the only one that it is like.

    Two names are alike if they differ by spaces around them, by the case of their letters, or by the way a number is
    written (1, 1.0, 01). True and false are also 1 and 0, yes and no, t and f.

    Args:
        names: What a table holds.
        known_names: What the training part held.

    Returns:
        name -> known name; what is like none of them, or like several, is left out.

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
    """Names that differ by case, spaces or the way an accent is written alone, each group as "'Yes' and 'yes'".

    Example:
        >>> find_similar_names(["Yes", "yes", "no"])
        ["'Yes' and 'yes'"]
    """
    forms: dict[str, list[str]] = {}
    for name in names:
        forms.setdefault(_folded(unicodedata.normalize("NFKC", name)), []).append(name)
    return [" and ".join(map(ascii, group)) for group in forms.values() if len(group) > 1]


def is_number(text: str) -> bool:
    """Whether a text is a number: digits, a point, an exponent."""
    return re.fullmatch(NUMBER[:-1], text) is not None


def _group_by_form(form: Callable[[str], str | None], known_names: Sequence[str]) -> dict[str, list[str]]:
    alike: dict[str, list[str]] = {}
    for name in known_names:
        if (key := form(name)) is not None:
            alike.setdefault(key, []).append(name)
    # Yes and no are true and false where there is nothing else that they could be.
    return alike if form is not _truth or sum(map(len, alike.values())) == len(known_names) else {}


def _folded(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())


def _number(name: str) -> str | None:
    text = name.strip()
    return f"{float(text):.17g}" if is_number(text) else None


def _truth(name: str) -> str | None:
    text = name.strip().casefold().removesuffix(".0")
    return "true" if text in _TRUE else "false" if text in _FALSE else None
