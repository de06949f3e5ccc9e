"""Rows of a figure: name, drawing and number, wide or narrow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from limbeck.report.axes import AxisScale, percent_grid, svg
from limbeck.report.markup import Markup, join, tag


class Layout(NamedTuple):
    """Positions of the parts of a row, in SVG units.

    Attributes:
        width: Width of the whole figure.
        start: Where its scale starts.
        right: Width of the margin right of the scale.
        over: Height of the text above each row; 0 if the text is beside it.
        class_: The CSS class for windows of this width.
    """

    width: float
    start: float
    right: float
    over: float
    class_: str

    def scale(self, low: float, high: float) -> AxisScale:
        """Return the horizontal scale."""
        return AxisScale(low, high, self.start, self.width - self.right)

    def height(self, row: float) -> float:
        """Return the height of a row whose drawing has height `row`."""
        return row + self.over

    def middle(self, top: float, row: float, number: int) -> float:
        """Return the vertical center of a row's drawing."""
        return top + self.height(row) * number + self.over + row / 2

    def words(self, name: str, value: str, y: float, row: float) -> Markup:
        """Draw the name and the number of a row."""
        if self.over:
            line = y - row / 2
            return join(
                tag("text", name, x=self.start, y=line),
                tag("text", value, x=self.width - self.right, y=line, text_anchor="end", class_="value"),
            )
        return join(
            tag("text", name, x=self.start - 14, y=y + 5, text_anchor="end"),
            tag("text", value, x=self.width - self.right + 16, y=y + 5, class_="value"),
        )


WIDE = Layout(960.0, 220.0, 190.0, 0.0, "on-wide")
NARROW = Layout(400.0, 20.0, 20.0, 16.0, "on-narrow")


def wide_and_narrow(draw: Callable[..., Markup], *args: Any, **kwargs: Any) -> Markup:
    """Draw a figure twice, for wide and narrow windows; CSS shows the one that fits."""
    return join(draw(*args, layout=WIDE, **kwargs), draw(*args, layout=NARROW, **kwargs))


def percent_figure(
    x: AxisScale, rows: Sequence[Markup], *, top: float, bottom: float, layout: Layout, label: str
) -> Markup:
    """Draw rows over a percentage grid."""
    return svg(percent_grid(x, top, bottom), rows, width=layout.width, height=bottom + 26, class_=layout.class_,
               label=label)  # fmt: skip
