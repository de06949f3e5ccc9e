"""HTML as escaped markup: elements, sections, tables, images, and numbers as text."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
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


def clean_text(text: str) -> str:
    """Replace control characters and lone surrogates, which HTML and SVG do not allow.

    Direction marks are replaced too, so that a name cannot reverse the text behind it.
    """
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)


def _safe(text: str, *, quote: bool) -> str:
    if not _SUSPECT.search(text):  # fast path: most texts are numbers
        return text
    return escape(clean_text(text), quote=quote)


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


# --- parts of a page -----------------------------------------------------------------------------------------------


def section(identity: str, title: str, *content: Any) -> Markup:
    """Make a section of the page with a heading and an id."""
    return tag("section", tag("h2", title, id=f"{identity}-title"), *content, id=identity,
               aria_labelledby=f"{identity}-title")  # fmt: skip


def table(
    caption: str, head: Sequence[Any], rows: Iterable[Sequence[Any]], *, words: int = 1, class_: str | None = None,
    strong: Sequence[int] = (),
) -> Markup:  # fmt: skip
    """Make a table whose first column has the names of the rows.

    Args:
        caption: The caption.
        head: The names of the columns.
        rows: The cells.
        words: Number of columns from the left that hold text, not numbers.
        class_: The CSS class.
        strong: Indices of the rows to emphasize.
    """
    columns = tag(
        "tr",
        (
            tag("th", _with_unit(name), scope="col", class_=None if i < words else "number")
            for i, name in enumerate(head)
        ),
    )
    body = [
        tag("tr", (_cell(i, cell, words) for i, cell in enumerate(row)), class_="strong" if number in strong else None)
        for number, row in enumerate(rows)
    ]
    element = tag("table", tag("caption", caption), tag("thead", columns), tag("tbody", body), class_=class_)
    # A wide table scrolls sideways; tabindex makes that possible with the keyboard.
    return tag("div", element, class_="scroll", tabindex="0", role="region", aria_label=caption)


def details(summary: str, *content: Any) -> Markup:
    """Make a fold-out element."""
    return tag("details", tag("summary", summary), *content)


def note(*text: Any) -> Markup:
    """Make a remark, such as what is not known."""
    return tag("p", *text, class_="note")


def prose(text: str) -> Markup:
    """Turn text between backticks into code.

    Example:
        >>> prose("Type `limbeck cite RUN`.")
        'Type <code>limbeck cite RUN</code>.'
    """
    return join(tag("code", part) if i % 2 else part for i, part in enumerate(text.split("`")))


def _with_unit(name: Any) -> Any:
    """Keep the name of a column and its unit on one line."""
    return name.replace(", ", ",\N{NO-BREAK SPACE}") if isinstance(name, str) and not isinstance(name, Markup) else name


def _cell(index: int, cell: Any, words: int) -> Markup:
    if index == 0:
        return tag("th", cell, scope="row")
    return tag("td", cell, class_=None if index < words else "number")


# --- numbers --------------------------------------------------------------------------------------------------------


def megabytes_text(value: float | None) -> str:
    """Format a size for a column in MB; a small one has its own unit.

    Example:
        >>> megabytes_text(3.14159), megabytes_text(0.00041), megabytes_text(None)
        ('3.14', '0.410 kB', '-')
    """
    if value is None:
        return "-"
    return "0" if value == 0 else f"{sized(1000 * value)} kB" if value < 0.001 else sized(value)


def sized(value: float) -> str:
    """Format a positive number with three significant digits.

    Example:
        >>> sized(0.012345), sized(3.14159), sized(1234.5)
        ('0.0123', '3.14', '1,234')
    """
    if value >= 999.5:
        return f"{value:,.0f}"
    text = f"{value:#.3g}"
    return text.rstrip(".") if "e" not in text else f"{value:.2g}"


def duration(milliseconds: float) -> str:
    """Format a time with its unit.

    Example:
        >>> duration(0.00123), duration(2.5)
        ('1.23 µs', '2.50 ms')
    """
    return f"{sized(1000 * milliseconds)} \N{MICRO SIGN}s" if milliseconds < 0.01 else f"{sized(milliseconds)} ms"


def times(ratio: float) -> str:
    """Format a ratio.

    Example:
        >>> times(37.2), times(1.25)
        ('37 times', '1.2 times')
    """
    return f"{ratio:.0f} times" if ratio >= 10 else f"{ratio:.1f} times"


def share_of(part: float, whole: float) -> str:
    """Format a part as a fraction of the whole.

    Example:
        >>> share_of(1.0, 37.0), share_of(3.0, 4.0)
        ('1/37', '75 %')
    """
    return f"1/{whole / part:.0f}" if whole >= 1.5 * part else f"{100 * part / whole:.0f} %"


def listed(names: Sequence[str]) -> str:
    """Join names with commas and "and"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
