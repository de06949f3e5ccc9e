"""Which models are worth their cost: accuracy against latency or size?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from limbeck.report.axes import Plot, Scale, around, decades_around, frame, mark, svg
from limbeck.report.figure.differences import short
from limbeck.report.markup import Markup, join, tag


class CostPoint(NamedTuple):
    """A model: its cost, its accuracy (a fraction) and half the width of that one's interval."""

    name: str
    style: int
    cost: float
    accuracy: float
    half: float | None


SAME = 1.05
"""Costs up to so many times as high count as the same: timings of the same network differ by as much."""

_WIDTH, _HEIGHT = 520.0, 340.0


def front(points: Sequence[CostPoint]) -> list[CostPoint]:
    """The points that no other beats: none is as cheap (within 5 %) and more accurate, or cheaper and as accurate."""
    kept = [p for p in points if not any(_beats(other, p) for other in points)]
    return sorted(kept, key=lambda p: (p.cost, p.accuracy))


def _beats(other: CostPoint, point: CostPoint) -> bool:
    if other.cost <= point.cost * SAME and other.accuracy > point.accuracy:
        return True
    return other.cost * SAME < point.cost and other.accuracy >= point.accuracy


def pareto_figure(points: Sequence[CostPoint], *, x_label: str, text: Callable[[float], str]) -> Markup:
    """Accuracy against a cost on a logarithmic scale, the front as a line, intervals as bars.

    Args:
        points: The models, each with a cost above 0.
        x_label: The cost and its unit.
        text: How a cost is written at a tick.
    """
    ends = [100 * (p.accuracy + side * (p.half or 0.0)) for p in points for side in (-1, 1)]
    x = Scale(*decades_around([p.cost for p in points]), 62.0, _WIDTH - 118, logarithmic=True)
    plot = Plot(x, Scale(*around(ends, least=1.0, floor=0, ceiling=100), _HEIGHT - 58, 40.0))
    best = front(points)
    line = plot.line([(p.cost, 100 * p.accuracy) for p in best], class_="front") if len(best) > 1 else None
    said = ", ".join(p.name for p in best)
    return svg(
        frame(plot, x_label=x_label, y_label="test accuracy, %", x_text=text, y_text=lambda v: f"{v:g}"),
        line,
        [_bar(p, plot) for p in points],
        [mark(p.style, *plot.at(p.cost, 100 * p.accuracy), size=6, class_="mark best" if p in best else "mark",
              title=f"{p.name}: {100 * p.accuracy:.2f} %, {p.cost:.4g}") for p in points],
        _names(points, plot),
        width=_WIDTH, height=_HEIGHT, label=f"Accuracy against {x_label}. On the front: {said}.",
    )  # fmt: skip


def _bar(point: CostPoint, plot: Plot) -> Markup | None:
    if point.half is None:
        return None
    x, low = plot.at(point.cost, 100 * (point.accuracy - point.half))
    high = plot.y(100 * min(point.accuracy + point.half, 1.0))
    return tag("line", x1=x, x2=x, y1=low, y2=high, class_=f"whisker s{point.style}")


def _names(points: Sequence[CostPoint], plot: Plot) -> Markup:
    """Names beside the marks, pushed apart where marks are close, with a line to the one they belong to."""
    placed = sorted((plot.y(100 * p.accuracy), plot.x(p.cost), p) for p in points)
    last, rows = -1e9, []
    for y, x, point in placed:
        at = max(y, last + 15)
        last = at
        rows.append((x, y, at, point))
    over = max(last - plot.y.start, 0.0) if rows else 0.0
    return join(
        (None if abs(at - over - y) < 3 else tag("line", x1=x + 7, y1=y, x2=x + 13, y2=at - over, class_="leader"),
         tag("text", short(point.name, 18), x=x + 15, y=at - over + 4, class_="name"))
        for x, y, at, point in rows
    )  # fmt: skip
