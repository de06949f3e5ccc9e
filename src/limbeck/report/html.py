"""HTML parts: escaped markup, sections, tables, figures, embedded images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from limbeck.report.axes import mark
from limbeck.report.markup import Markup, join, tag


def section(identity: str, title: str, *content: Any) -> Markup:
    """A part of the page that a link can lead to."""
    return tag("section", tag("h2", title, id=f"{identity}-title"), *content, id=identity,
               aria_labelledby=f"{identity}-title")  # fmt: skip


def figure(title: str, drawing: Markup, caption: Any, *more: Any, wide: bool = False) -> Markup:
    """A drawing under its title, with what it means beneath."""
    return tag(
        "figure",
        tag("h3", title),
        tag("div", drawing, class_="draw"),
        tag("figcaption", caption),
        *more,
        class_="wide" if wide else None,
    )


def legend(entries: Iterable[tuple[str, int | Markup]]) -> Markup:
    """Which color and shape is whose: an arm's style, or a mark around (8, 8)."""
    return tag(
        "ul",
        (
            tag(
                "li",
                tag(
                    "svg",
                    mark(style, 8.0, 8.0) if isinstance(style, int) else style,
                    viewBox="0 0 16 16",
                    aria_hidden="true",
                ),
                name,
            )
            for name, style in entries
        ),
        class_="legend",
    )


def table(
    caption: str, head: Sequence[Any], rows: Iterable[Sequence[Any]], *, words: int = 1, class_: str | None = None,
    strong: Sequence[int] = (),
) -> Markup:  # fmt: skip
    """A table whose first column names the row.

    Args:
        caption: What it shows.
        head: The columns' names.
        rows: The cells.
        words: How many columns, from the left, hold words and no numbers.
        class_: The table's class.
        strong: The rows that stand out.
    """
    columns = tag(
        "tr",
        (tag("th", _whole(name), scope="col", class_=None if i < words else "number") for i, name in enumerate(head)),
    )
    body = [
        tag("tr", (_cell(i, cell, words) for i, cell in enumerate(row)), class_="strong" if number in strong else None)
        for number, row in enumerate(rows)
    ]
    whole = tag("table", tag("caption", caption), tag("thead", columns), tag("tbody", body), class_=class_)
    # A wide table is moved sideways in its place; that place must be reachable with the keyboard.
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def details(summary: str, *content: Any) -> Markup:
    """What is there for those who want it."""
    return tag("details", tag("summary", summary), *content)


def note(*text: Any) -> Markup:
    """A remark, such as what is not known."""
    return tag("p", *text, class_="note")


def grid(*children: Any) -> Markup:
    """Figures beside each other where there is room."""
    return tag("div", *children, class_="grid-2")


def prose(text: str) -> Markup:
    """A sentence in which what stands between backticks is what one types.

    Example:
        >>> prose("Type `limbeck cite RUN`.")
        'Type <code>limbeck cite RUN</code>.'
    """
    return join(tag("code", part) if i % 2 else part for i, part in enumerate(text.split("`")))


def _whole(name: Any) -> Any:
    """A column's name with its unit on one line."""
    return name.replace(", ", ",\N{NO-BREAK SPACE}") if isinstance(name, str) and not isinstance(name, Markup) else name


def _cell(place: int, cell: Any, words: int) -> Markup:
    if place == 0:
        return tag("th", cell, scope="row")
    return tag("td", cell, class_=None if place < words else "number")
