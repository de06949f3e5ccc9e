"""How is markup written so that no text can ever become markup?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from html import escape
from typing import Any, final


@final
class Markup(str):
    """Text that is markup already; any other text is escaped where it is put into an element."""

    __slots__ = ()


_VOID = frozenset({"meta", "link", "img", "br", "hr", "input", "col"})


def tag(element: str, *children: Any, **attributes: Any) -> Markup:
    """An element of HTML or SVG with its children and attributes, everything escaped that is not `Markup`.

    Args:
        element: The element's name.
        *children: Text, numbers, markup, or iterables of them; None is left out.
        **attributes: ``class_`` is class, ``stroke_width`` is stroke-width; None and False are left out, True stands
            without a value; numbers with a fraction are rounded to hundredths.

    Example:
        >>> tag("td", "a < b", class_="name")
        '<td class="name">a &lt; b</td>'
    """
    inside = "".join(_flat(children))
    given = "".join(_attribute(name, value) for name, value in attributes.items())
    return Markup(f"<{element}{given}>" if element in _VOID else f"<{element}{given}>{inside}</{element}>")


def join(*children: Any) -> Markup:
    """Children without an element around them."""
    return Markup("".join(_flat(children)))


def _flat(children: Iterable[Any]) -> Iterator[str]:
    for child in children:
        if child is None:
            continue
        if type(child) is Markup:  # nothing derives from it; and most of a page is that
            yield child
        elif isinstance(child, (list, tuple)):
            yield from _flat(child)
        elif isinstance(child, str) or not isinstance(child, Iterable):
            yield _safe(str(child), quote=False)
        else:
            yield from _flat(child)


def _attribute(name: str, value: Any) -> str:
    if value is None or value is False:
        return ""
    shown = _spelt(name)
    if value is True:
        return f" {shown}"
    if isinstance(value, float):
        return f' {shown}="{value:.2f}"'
    return f' {shown}="{_safe(str(value), quote=True)}"'


@cache
def _spelt(name: str) -> str:
    """An attribute's name as a document has it; a page has few, many times."""
    return name.rstrip("_").replace("_", "-")


_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


_SUSPECT = re.compile("[&<>\"'\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def _safe(text: str, *, quote: bool) -> str:
    """Escaped, and without control characters and halves of characters, which no document may hold.

    Nor may a name turn the direction of what stands behind it.
    """
    if not _SUSPECT.search(text):  # most of a page is numbers
        return text
    return escape(_FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text), quote=quote)
