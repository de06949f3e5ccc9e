"""Escaped markup, and images as data URIs."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from functools import cache
from html import escape
from typing import Any, final

import numpy as np


@final
class Markup(str):
    """Text that is already markup. All other text is escaped when it is put into an element."""

    __slots__ = ()


_VOID = frozenset({"meta", "link", "img", "br", "hr", "input", "col"})


def tag(element: str, *children: Any, **attributes: Any) -> Markup:
    """Make an HTML or SVG element. Everything that is not `Markup` is escaped.

    Args:
        element: The name of the element.
        *children: Text, numbers, markup, or iterables of them. None is skipped.
        **attributes: ``class_`` becomes class and ``stroke_width`` stroke-width. None and False are skipped, True is
            written without a value, and floats are rounded to hundredths.

    Example:
        >>> tag("td", "a < b", class_="name")
        '<td class="name">a &lt; b</td>'
    """
    inside = "".join(_flat(children))
    pairs = "".join(_attribute(name, value) for name, value in attributes.items())
    return Markup(f"<{element}{pairs}>" if element in _VOID else f"<{element}{pairs}>{inside}</{element}>")


def join(*children: Any) -> Markup:
    """Concatenate children without an element around them."""
    return Markup("".join(_flat(children)))


def _flat(children: Iterable[Any]) -> Iterator[str]:
    for child in children:
        if child is None:
            continue
        if type(child) is Markup:  # fast path: most of a page is Markup, and the class is final
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
    key = _attribute_name(name)
    if value is True:
        return f" {key}"
    if isinstance(value, float):
        return f' {key}="{value:.2f}"'
    return f' {key}="{_safe(str(value), quote=True)}"'


@cache
def _attribute_name(name: str) -> str:
    """Convert a Python name to an attribute name. Cached, because a page repeats few names many times."""
    return name.rstrip("_").replace("_", "-")


_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_SUSPECT = re.compile("[&<>\"'\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def _safe(text: str, *, quote: bool) -> str:
    """Escape text and replace control characters and lone surrogates, which HTML does not allow.

    Direction marks are replaced too, so that a name cannot reverse the text behind it.
    """
    if not _SUSPECT.search(text):  # fast path: most texts are numbers
        return text
    return escape(_FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text), quote=quote)


def png(pixels: np.ndarray) -> bytes:
    r"""Encode bytes as PNG: ``[height, width]`` (gray) or ``[height, width, 3 | 4]`` (red, green, blue, opacity).

    Example:
        >>> png(np.zeros((2, 2), dtype=np.uint8))[:4]
        b'\x89PNG'
    """
    height, width = pixels.shape[:2]
    kind = {2: 0}.get(pixels.ndim) if pixels.ndim == 2 else {3: 2, 4: 6}[pixels.shape[2]]
    rows = np.ascontiguousarray(pixels, dtype=np.uint8).reshape(height, -1)
    # PNG starts each row with the number of its filter; 0 is no filter.
    raw = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    body = [(b"IHDR", header), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in body)


def data_uri(pixels: np.ndarray) -> str:
    """Encode pixels as a ``data:`` URI of a PNG file."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode("ascii")


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
