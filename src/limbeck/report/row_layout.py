"""Rows of a figure: name, drawing and number, wide or narrow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from limbeck.report.axes import AxisScale, percent_grid, svg
from limbeck.report.markup import Markup, join, tag


class Layout(NamedTuple):
    """Where a row's parts stand, in SVG units.

    Attributes:
        width: Of the whole figure.
        left: Where its scale begins.
        right: How much there is beyond the scale's end.
        over: The room over each row for its words; 0 where they stand beside it.
        class_: The page's class for windows of this kind.
    """

    width: float
    left: float
    right: float
    over: float
    class_: str

    def scale(self, low: float, high: float) -> AxisScale:
        """The scale from side to side."""
        return AxisScale(low, high, self.left, self.width - self.right)

    def height(self, row: float) -> float:
        """The room that a row takes whose drawing is so high."""
        return row + self.over

    def middle(self, top: float, row: float, number: int) -> float:
        """Where the drawing of a row stands."""
        return top + self.height(row) * number + self.over + row / 2

    def words(self, name: str, value: str, y: float, row: float) -> Markup:
        """A row's name and number, for a drawing at this height."""
        if self.over:
            line = y - row / 2
            return join(
                tag("text", name, x=self.left, y=line),
                tag("text", value, x=self.width - self.right, y=line, text_anchor="end", class_="value"),
            )
        return join(
            tag("text", name, x=self.left - 14, y=y + 5, text_anchor="end"),
            tag("text", value, x=self.width - self.right + 16, y=y + 5, class_="value"),
        )


WIDE = Layout(960.0, 220.0, 190.0, 0.0, "on-wide")
NARROW = Layout(400.0, 20.0, 20.0, 16.0, "on-narrow")


def both(draw: Callable[..., Markup], *args: Any, **kwargs: Any) -> Markup:
    """A figure as it is drawn for wide windows and for narrow ones; the page shows the one that fits."""
    return join(draw(*args, layout=WIDE, **kwargs), draw(*args, layout=NARROW, **kwargs))


def percent_figure(
    x: AxisScale, rows: Sequence[Markup], *, top: float, bottom: float, layout: Layout, label: str
) -> Markup:
    """Rows over a grid of percentages."""
    return svg(percent_grid(x, top, bottom), rows, width=layout.width, height=bottom + 26, class_=layout.class_,
               label=label)  # fmt: skip
