"""HTML parts: escaped markup, sections, tables, figures, embedded images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from limbeck.report.axes import mark
from limbeck.report.markup import Markup, join, tag


def section(identity: str, title: str, *content: Any) -> Markup:
    """Make a section of the page with a heading and an id."""
    return tag("section", tag("h2", title, id=f"{identity}-title"), *content, id=identity,
               aria_labelledby=f"{identity}-title")  # fmt: skip


def figure(title: str, drawing: Markup, caption: Any, *more: Any, wide: bool = False) -> Markup:
    """Make a figure with a title and a caption."""
    return tag(
        "figure",
        tag("h3", title),
        tag("div", drawing, class_="draw"),
        tag("figcaption", caption),
        *more,
        class_="wide" if wide else None,
    )


def legend(entries: Iterable[tuple[str, int | Markup]]) -> Markup:
    """Make a legend. Each entry has the style of an arm, or a mark drawn around (8, 8)."""
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


def grid(*children: Any) -> Markup:
    """Place figures side by side where the window is wide enough."""
    return tag("div", *children, class_="grid-2")


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
