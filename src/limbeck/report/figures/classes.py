"""Figures of classes: gains and losses, confusions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from limbeck.report.axes import AxisScale, mark, padded_limits, svg
from limbeck.report.figures.differences import short
from limbeck.report.markup import Markup, data_uri, tag
from limbeck.report.row_layout import WIDE, Layout, percent_figure


class ClassRow(NamedTuple):
    """A class: accuracy before and after (fractions), number of test examples, and significance of the change."""

    name: str
    before: float
    after: float
    examples: int
    sure: bool
    p_value: float
    adjusted: float

    @property
    def change(self) -> float:
        """Accuracy after minus accuracy before."""
        return self.after - self.before


_TOP, _ROW = 14.0, 24.0

MOST = 24

"""Largest number of classes in the figure: those with the largest changes. The table has all."""


def select_rows(rows: Sequence[ClassRow]) -> list[ClassRow]:
    """Return the classes to draw, from the largest loss to the largest gain."""
    ordered = sorted(rows, key=lambda row: row.change)
    return ordered if len(ordered) <= MOST else [*ordered[: MOST // 2], *ordered[-MOST // 2 :]]


def classes_figure(rows: Sequence[ClassRow], *, before: int, after: int, layout: Layout = WIDE) -> Markup:
    """Plot the accuracy of each class before (small mark) and after (large mark), the largest loss on top.

    Args:
        rows: The classes.
        before: The style of the arm before.
        after: The style of the arm after.
        layout: The window width to draw for.
    """
    drawn_rows = select_rows(rows)
    ends = [100 * v for row in drawn_rows for v in (row.before, row.after)]
    x = layout.scale(*padded_limits(ends, least=2.0, floor=0.0, ceiling=100.0))
    bottom = _TOP + layout.height(_ROW) * len(drawn_rows)
    drawn = [_row(row, x, layout.middle(_TOP, _ROW, i), before, after, layout) for i, row in enumerate(drawn_rows)]
    sure = [f"{row.name} {100 * row.change:+.1f}" for row in drawn_rows if row.sure]
    summary = f"significant: {', '.join(sure)}" if sure else "no change is significant"
    label = f"Accuracy of each class before and after; {summary}."
    return percent_figure(x, drawn, top=_TOP, bottom=bottom, layout=layout, label=label)


def _row(row: ClassRow, x: AxisScale, y: float, before: int, after: int, layout: Layout) -> Markup:
    start, end = x(100 * row.before), x(100 * row.after)
    kind = "loss" if row.change < 0 else "gain"
    label = f"{100 * row.change:+.1f}" + (" *" if row.sure else "")
    return tag(
        "g",
        layout.words(short(row.name, 26), f"{label}   of {row.examples:,}", y, _ROW),
        tag("line", x1=start, x2=end, y1=y, y2=y, class_=f"change {kind}"),
        mark(before, start, y, size=3.5, title=f"{row.name} before: {100 * row.before:.1f} %"),
        mark(after, end, y, size=5.0, title=f"{row.name} after: {100 * row.after:.1f} %"),
        class_="class sure" if row.sure else "class",
    )


_WIDTH, _LEFT, _RIGHT = 520.0, 96.0, 34.0  # the right margin has room for the rotated name of the last column

_TOPS = (50.0, 94.0)

"""Height of the column names: upright numbers, or rotated words."""

_LETTERED = 24

"""With more classes than this there is no room for text, and the cells become one image."""

Matrix = np.ndarray


def confusion_figure(rates: Matrix, names: Sequence[str], *, top: float, who: str) -> Markup:
    """Plot a confusion matrix: the share of each true class (row) predicted as each class (column), errors shaded.

    Args:
        rates: ``[classes, classes]``. Each row sums to 1, or to 0 for a class without examples.
        names: The names of the classes.
        top: The rate with full shading, the same for figures side by side.
        who: The name of the model.
    """
    summary = ", ".join(
        f"{names[i]} predicted as {names[j]} {100 * rates[i, j]:.1f} %" for i, j in top_confusions(rates, 3)
    )
    label = f"Confusion of {who}. Most often: {summary or 'nothing'}."
    return _grid(rates, names, lambda v: (min(v / top, 1.0) if top > 0 else 0.0, "error"), "{:.0f}", label)


def change_figure(change: Matrix, names: Sequence[str], *, top: float) -> Markup:
    """Plot the change of a confusion matrix: more errors in one color, fewer in another.

    Args:
        change: Rates after minus rates before.
        names: The names of the classes.
        top: The change with full shading.
    """
    summary = ", ".join(
        f"{names[i]} for {names[j]} {100 * change[i, j]:+.1f}" for i, j in top_confusions(np.abs(change), 3)
    )
    label = f"Change of the confusion, in points. Most: {summary or 'none'}."
    return _grid(change, names, lambda v: (min(abs(v) / top, 1.0) if top > 0 else 0.0, "more" if v > 0 else "fewer"),
                 "{:+.0f}", label)  # fmt: skip


def top_confusions(rates: Matrix, count: int) -> list[tuple[int, int]]:
    """Return the off-diagonal cells with the highest rates above 0, highest first."""
    errors = rates.copy()
    np.fill_diagonal(errors, 0.0)
    order = np.argsort(-errors, axis=None, kind="stable")[:count]
    cells = [(int(at // len(rates)), int(at % len(rates))) for at in order]
    return [cell for cell in cells if errors[cell] > 0]


def _grid(values: Matrix, names: Sequence[str], shade: Any, form: str, label: str) -> Markup:
    count = len(values)
    leaning = count <= _LETTERED and max(map(len, names), default=0) > 3
    top = _TOPS[leaning]
    cell = (_WIDTH - _LEFT - _RIGHT) / max(count, 1)
    cell = min(cell, 64.0)
    side = cell * count
    if count > _LETTERED:
        inside = [_picture(values, shade, side, top), _edges(names, side, top)]
    else:
        inside = [_cells(values, names, shade, form, cell, top), _words(names, cell, top, leaning=leaning)]
    return svg(
        tag("rect", x=_LEFT, y=top, width=side, height=side, class_="edge"), inside,
        tag("text", "predicted class", x=_LEFT, y=14, class_="axis"),
        tag("text", "true class", x=8, y=top - 10, class_="axis"),
        width=_WIDTH, height=top + side + 10, label=label,
    )  # fmt: skip


def _cells(values: Matrix, names: Sequence[str], shade: Any, form: str, cell: float, top: float) -> list[Markup]:
    marks = []
    for i in range(len(values)):
        for j in range(len(values)):
            share, kind = (0.0, "right") if i == j and "+" not in form else shade(float(values[i, j]))
            if i == j and "+" in form:  # on the diagonal, more is better
                kind = "fewer" if kind == "more" else "more"
            label = form.format(100 * values[i, j])
            opacity = None if i == j and kind == "right" else round(share, 3)
            x, y = _LEFT + j * cell, top + i * cell
            title = tag("title", f"{names[i]} predicted as {names[j]}: {100 * values[i, j]:.1f}")
            marks.append(tag("rect", title, x=x, y=y, width=cell, height=cell, class_=f"cell {kind}",
                             fill_opacity=opacity))  # fmt: skip
            if cell >= 24 and label.strip("+-") != "0":
                marks.append(tag("text", label, x=x + cell / 2, y=y + cell / 2 + 4, text_anchor="middle",
                                 class_="cell-text on" if share > 0.6 else "cell-text"))  # fmt: skip
    return marks


def _words(names: Sequence[str], cell: float, top: float, *, leaning: bool) -> list[Markup]:
    rows = [tag("text", short(name, 13), x=_LEFT - 8, y=top + (i + 0.5) * cell + 4, text_anchor="end", class_="tick")
            for i, name in enumerate(names)]  # fmt: skip
    columns = []
    for j, name in enumerate(names):
        x, y = _LEFT + (j + 0.5) * cell, top - 6
        rotation = {"transform": f"rotate(-55 {x + 3:.1f} {y:.1f})"} if leaning else {"text_anchor": "middle"}
        columns.append(tag("text", short(name, 11), x=x + 3 * leaning, y=y, class_="tick", **rotation))
    return [*rows, *columns]


_COLORS = {"error": (194, 65, 12), "more": (194, 65, 12), "fewer": (11, 103, 168)}


def _picture(values: Matrix, shade: Any, side: float, top: float) -> Markup:
    """Draw all cells as one image whose opacity is the shade, so that it fits light and dark pages."""
    count = len(values)
    pixels = np.zeros((count, count, 4), dtype=np.uint8)
    for i, j in zip(*np.nonzero(values), strict=True):
        share, kind = shade(float(values[i, j]))
        if i != j:
            pixels[i, j] = (*_COLORS[kind], round(255 * max(share, 0.06)))
        elif kind != "error":
            pixels[i, j] = (*_COLORS["fewer" if kind == "more" else "more"], round(255 * max(share, 0.06)))
    return tag("image", href=data_uri(pixels), x=_LEFT, y=top, width=side, height=side, class_="pixels")


def _edges(names: Sequence[str], side: float, top: float) -> list[Markup]:
    last = len(names) - 1
    return [
        tag("text", short(names[0], 13), x=_LEFT - 8, y=top + 10, text_anchor="end", class_="tick"),
        tag("text", short(names[last], 13), x=_LEFT - 8, y=top + side, text_anchor="end", class_="tick"),
        tag("text", short(names[0], 13), x=_LEFT, y=top - 6, class_="tick"),
        tag("text", short(names[last], 13), x=_LEFT + side, y=top - 6, text_anchor="end", class_="tick"),
    ]
