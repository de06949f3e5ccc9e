"""Which classes gain and which lose?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from limbeck.report.axes import Scale, around, mark
from limbeck.report.figure.differences import short
from limbeck.report.markup import Markup, tag
from limbeck.report.rows import WIDE, Layout, percent_figure


class ClassRow(NamedTuple):
    """A class: its accuracy before and after (fractions), its test examples, and how sure the change is."""

    name: str
    before: float
    after: float
    examples: int
    sure: bool
    p_value: float
    adjusted: float

    @property
    def change(self) -> float:
        """Accuracy after less that before."""
        return self.after - self.before


_TOP, _ROW = 14.0, 24.0
MOST = 24
"""No more classes are drawn: those that lose and gain most; all are in the table."""


def shown_rows(rows: Sequence[ClassRow]) -> list[ClassRow]:
    """The classes that are drawn, from the one that loses most to the one that gains most."""
    ordered = sorted(rows, key=lambda row: row.change)
    return ordered if len(ordered) <= MOST else [*ordered[: MOST // 2], *ordered[-MOST // 2 :]]


def classes_figure(rows: Sequence[ClassRow], *, before: int, after: int, layout: Layout = WIDE) -> Markup:
    """From the accuracy before (small mark) to that after (large mark), one row a class, the worst loser on top.

    Args:
        rows: The classes.
        before: The style of the arm before.
        after: The style of the arm after.
        layout: For which kind of window.
    """
    shown = shown_rows(rows)
    ends = [100 * v for row in shown for v in (row.before, row.after)]
    x = layout.scale(*around(ends, least=2.0, floor=0.0, ceiling=100.0))
    bottom = _TOP + layout.height(_ROW) * len(shown)
    drawn = [_row(row, x, layout.middle(_TOP, _ROW, i), before, after, layout) for i, row in enumerate(shown)]
    sure = [f"{row.name} {100 * row.change:+.1f}" for row in shown if row.sure]
    said = f"sure of: {', '.join(sure)}" if sure else "no single change is sure"
    label = f"Accuracy of each class before and after; {said}."
    return percent_figure(x, drawn, top=_TOP, bottom=bottom, layout=layout, label=label)


def _row(row: ClassRow, x: Scale, y: float, before: int, after: int, layout: Layout) -> Markup:
    start, end = x(100 * row.before), x(100 * row.after)
    kind = "loss" if row.change < 0 else "gain"
    said = f"{100 * row.change:+.1f}" + (" *" if row.sure else "")
    return tag(
        "g",
        layout.words(short(row.name, 26), f"{said}   of {row.examples:,}", y, _ROW),
        tag("line", x1=start, x2=end, y1=y, y2=y, class_=f"change {kind}"),
        mark(before, start, y, size=3.5, title=f"{row.name} before: {100 * row.before:.1f} %"),
        mark(after, end, y, size=5.0, title=f"{row.name} after: {100 * row.after:.1f} %"),
        class_="class sure" if row.sure else "class",
    )
