"""Figure of differences between arms, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from limbeck.report.axes import (
    AxisScale,
    Span,
    arrow_head,
    axis_values,
    clip_interval,
    edge_marker,
    mark,
    outlier_sentence,
    outliers,
    padded_limits,
    svg,
)
from limbeck.report.markup import Markup, join, tag
from limbeck.report.row_layout import WIDE, Layout


class DifferenceRow(NamedTuple):
    """A paired difference of accuracies (fractions); `interval` is None for a single seed."""

    name: str
    style: int
    mean: float
    interval: tuple[float, float] | None

    @property
    def span(self) -> Span:
        """The interval in percentage points."""
        low, high = self.interval or (self.mean, self.mean)
        return 100 * low, 100 * high


_TOP, _ROW = 34.0, 34.0
_ASCENT, _DESCENT = 14.0, 5.0
"""Height of text above and below its baseline, with a margin."""
_AXIS = "points of accuracy on test data"


def differences_figure(
    rows: Sequence[DifferenceRow], *, worse: str, better: str, axis: str = _AXIS, layout: Layout = WIDE
) -> Markup:
    """Plot differences with their 95 % intervals around zero; outliers are drawn at the edge.

    Args:
        rows: From top to bottom.
        worse: Label of the side left of zero.
        better: Label of the side right of zero.
        axis: Label of the scale, which shows 100 times the differences.
        layout: The window width to draw for.
    """
    zero = (0.0, 0.0)
    far = outliers([*(row.span for row in rows), zero], least=1.0, pinned=[len(rows)])
    near = [row for i, row in enumerate(rows) if i not in far]
    ends = axis_values([0.0, *(100 * row.mean for row in near)], [end for row in near for end in row.span], least=1.0)
    x = layout.scale(*padded_limits(ends, least=0.5))
    bottom = _TOP + layout.height(_ROW) * len(rows)
    pieces = _line_pieces(len(rows), far, layout, bottom)
    parts = [
        [([tag("line", x1=x(t), x2=x(t), y1=y1, y2=y2, class_="zero" if t == 0 else "grid") for y1, y2 in pieces],
          tag("text", f"{t:+g}" if t else "0", x=x(t), y=bottom + 17, class_="tick", text_anchor="middle"))
         for t in x.ticks],
        _sides(x, worse, better, apart=bool(layout.over)),
        tag("text", axis, x=(x.start + x.end) / 2, y=bottom + 36, class_="axis",
            text_anchor="middle"),
    ]  # fmt: skip
    drawn = [_row(row, x, layout.middle(_TOP, _ROW, i), far.get(i), layout) for i, row in enumerate(rows)]
    summary = (
        "; ".join(f"{row.name}: {_value_text(row)}" for row in rows)
        + "."
        + outlier_sentence([rows[i].name for i in sorted(far)])
    )
    return svg(*parts, *drawn, width=layout.width, height=bottom + 46, class_=layout.class_,
               label=f"Differences in {axis}. {summary}")  # fmt: skip


def _line_pieces(rows: int, far: Mapping[int, int], layout: Layout, bottom: float) -> list[tuple[float, float]]:
    """Split vertical lines so that they do not run through the text of a row."""
    words = []
    for i in range(rows):
        y = layout.middle(_TOP, _ROW, i)
        if layout.over:
            line = y - _ROW / 2
            words.append((line - _ASCENT, line + _DESCENT))
        if i in far:
            words.append((y + 5 - _ASCENT, y + 5 + _DESCENT))
    starts = [_TOP - 4, *(end for _, end in words)]
    ends = [*(start for start, _ in words), bottom]
    return [(start, end) for start, end in zip(starts, ends, strict=True) if end > start]


def _sides(x: AxisScale, worse: str, better: str, *, apart: bool) -> Markup:
    """Label the sides of zero; the labels are at the ends of the scale if `apart`."""
    start, end = (x.start, x.end) if apart else (x(0) - 10, x(0) + 10)
    return join(
        tag("text", f"← {worse}", x=start, y=_TOP - 14, class_="axis", text_anchor="start" if apart else "end"),
        tag("text", f"{better} →", x=end, y=_TOP - 14, class_="axis", text_anchor="end" if apart else "start"),
    )


def _row(row: DifferenceRow, x: AxisScale, y: float, side: int | None, layout: Layout) -> Markup:
    whisker = None
    if row.interval is not None and side is None:
        ends = clip_interval(x, *row.span)
        whisker = join(
            tag("line", x1=ends[0][0], x2=ends[1][0], y1=y, y2=y, class_="whisker"),
            [arrow_head(end, y, out) if out else tag("line", x1=end, x2=end, y1=y - 6, y2=y + 6, class_="whisker")
             for end, out in ends],
        )  # fmt: skip
    title = f"{row.name}: {_value_text(row)}"
    return tag(
        "g",
        layout.words(short(row.name, 26), _value_text(row), y, _ROW),
        whisker,
        mark(row.style, x(100 * row.mean), y, size=6.0, title=title)
        if side is None
        else edge_marker(side, x, y, title=title),
        class_=f"arm s{row.style}",
    )


def _value_text(row: DifferenceRow) -> str:
    if row.interval is None:
        return f"{100 * row.mean:+.2f}, one seed"
    low, high = row.interval
    return f"{100 * row.mean:+.2f}  [{100 * low:+.2f}, {100 * high:+.2f}]"


def short(text: str, most: int) -> str:
    """Shorten a name to `most` characters. The tables have the full names.

    Example:
        >>> short("a very long name", 8)
        'a very …'
    """
    return text if len(text) <= most else f"{text[: most - 1]}…"
