"""Figure of accuracy against cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from limbeck.report.axes import (
    AxisScale,
    Plot,
    Span,
    axis_values,
    clip_interval,
    frame,
    log_limits,
    mark,
    outlier_sentence,
    outliers,
    padded_limits,
    svg,
)
from limbeck.report.figures.differences import short
from limbeck.report.markup import Markup, join, tag


class CostPoint(NamedTuple):
    """A model: its cost, its accuracy (a fraction) and its standard deviation over the seeds."""

    name: str
    style: int
    cost: float
    accuracy: float
    std: float | None

    @property
    def span(self) -> Span:
        """One standard deviation on either side, in percent."""
        std = self.std or 0.0
        return 100 * max(self.accuracy - std, 0.0), 100 * min(self.accuracy + std, 1.0)


SAME = 1.05
"""Costs within this ratio count as equal, because timings of the same network differ by as much."""

_WIDTH, _HEIGHT, _APART = 520.0, 340.0, 9.0


def pareto_front(points: Sequence[CostPoint]) -> list[CostPoint]:
    """Return the points that no other point dominates. Costs within 5 % count as equal."""
    best = [p for p in points if not any(_beats(other, p) for other in points)]
    return sorted(best, key=lambda p: (p.cost, p.accuracy))


def _beats(other: CostPoint, point: CostPoint) -> bool:
    if other.cost <= point.cost * SAME and other.accuracy > point.accuracy:
        return True
    return other.cost * SAME < point.cost and other.accuracy >= point.accuracy


def pareto_figure(points: Sequence[CostPoint], *, x_label: str, text: Callable[[float], str]) -> Markup:
    """Plot accuracy against a cost on a logarithmic scale, with the Pareto front as a line and intervals as bars.

    Outliers in accuracy are drawn at the edge with an arrow and their number, except models on the front.

    Args:
        points: The models, each with a cost above 0.
        x_label: The cost and its unit.
        text: Formats the tick labels of the cost.
    """
    best = pareto_front(points)
    sides = _outlier_sides(points, best)
    x = AxisScale(*log_limits([p.cost for p in points]), 62.0, _WIDTH - 118, logarithmic=True)
    plot = Plot(x, AxisScale(*_ends([p for p in points if p not in sides]), _HEIGHT - 58, 40.0))
    at = _columns(points, plot)
    height = {p: _edge(plot, sides[p]) if p in sides else plot.y(100 * p.accuracy) for p in points}
    line = _front_line([(at[p], height[p]) for p in best]) if len(best) > 1 else None
    summary = f"{', '.join(p.name for p in best)}." + outlier_sentence([f"{p.name} {_percent(p)}" for p in sides])
    return svg(
        frame(plot, x_label=x_label, y_label="test accuracy, %", x_text=text, y_text=lambda v: f"{v:g}"),
        line,
        [_bar(p, plot, at[p]) for p in points if p not in sides],
        [_arrow(at[p], height[p], side, p.style) for p, side in sides.items()],
        [mark(p.style, at[p], height[p], size=6.0, title=f"{p.name}: {_percent(p)}, {p.cost:.4g}",
              class_=f"mark {'best' if p in best else 'off' if p in sides else ''}") for p in points],
        _names(points, plot, at, height, sides),
        width=_WIDTH, height=_HEIGHT, label=f"Accuracy against {x_label}. On the front: {summary}",
    )  # fmt: skip


def _outlier_sides(points: Sequence[CostPoint], best: Sequence[CostPoint]) -> dict[CostPoint, int]:
    """Return the outliers in accuracy and their side."""
    means = [100 * p.accuracy for p in points]
    far = outliers([(v, v) for v in means], least=1.0, pinned=[i for i, p in enumerate(points) if p in best])
    return {points[i]: side for i, side in far.items()}


def _ends(points: Sequence[CostPoint]) -> tuple[float, float]:
    """Return scale limits for these models and their intervals."""
    values = axis_values([100 * p.accuracy for p in points], [end for p in points for end in p.span], least=1.0)
    low, high = padded_limits(values, least=1.0, floor=0.0, ceiling=100.0)
    return float(low), float(high)


def _edge(plot: Plot, side: int) -> float:
    """Return the height of an outlier's mark, with room for an arrow."""
    return plot.y.end + 18.0 if side > 0 else plot.y.start - 18.0


def _arrow(x: float, y: float, side: int, style: int) -> Markup:
    shaft = tag("line", x1=x, x2=x, y1=y, y2=y - 16.0 * side, class_=f"whisker s{style}")
    return join(shaft, _head(x, y - 16.0 * side, side, style))


def _head(x: float, y: float, side: int, style: int) -> Markup:
    """Draw the head of an arrow that points up or down."""
    back = y + 6.0 * side
    return tag("polyline", points=f"{x - 4:.1f},{back:.1f} {x:.1f},{y:.1f} {x + 4:.1f},{back:.1f}", fill="none",
               class_=f"whisker s{style}")  # fmt: skip


def _percent(point: CostPoint) -> str:
    return f"{100 * point.accuracy:.2f} %"


def _bar(point: CostPoint, plot: Plot, x: float) -> Markup | None:
    if point.std is None:
        return None
    (low, beneath), (high, above) = clip_interval(plot.y, *point.span)
    line = tag("line", x1=x, x2=x, y1=low, y2=high, class_=f"whisker s{point.style}")
    return join(line, [_head(x, end, out, point.style) for end, out in ((low, beneath), (high, above)) if out])


def _columns(points: Sequence[CostPoint], plot: Plot) -> dict[CostPoint, float]:
    """Return horizontal positions; models of equal cost are side by side, so that their bars do not overlap."""
    groups: list[list[CostPoint]] = []
    for point in sorted(points, key=lambda p: p.cost):
        if groups and point.cost <= groups[-1][0].cost * SAME:
            groups[-1].append(point)
        else:
            groups.append([point])
    return {
        point: plot.x(point.cost) + _APART * (i - (len(group) - 1) / 2)
        for group in groups
        for i, point in enumerate(sorted(group, key=lambda p: -p.accuracy))
    }


def _front_line(positions: Sequence[tuple[float, float]]) -> Markup:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in positions)
    return tag("polyline", points=points, fill="none", class_="front")


def _names(
    points: Sequence[CostPoint], plot: Plot, places: dict[CostPoint, float], heights: dict[CostPoint, float],
    sides: dict[CostPoint, int],
) -> Markup:  # fmt: skip
    """Draw names beside the marks, moved apart where marks are close, each with a line to its mark."""
    edge = {p: max(x for q, x in places.items() if q.cost <= p.cost * SAME and p.cost <= q.cost * SAME) for p in points}
    ordered = sorted((heights[p], edge[p], p) for p in points)
    # Each name is at least 15 units below the previous one; the whole column moves up if it overflows.
    last, rows = -1e9, []
    named: set[str] = set()
    for y, x, point in ordered:
        if point.name in named:  # the same name may occur once per run
            continue
        named.add(point.name)
        at = max(y, last + 15)
        last = at
        rows.append((x, y, at, point))
    over = max(last - plot.y.start, 0.0) if rows else 0.0
    return join(
        (tag("line", x1=places[point] + 8, y1=y, x2=x + 13, y2=at - over, class_="leader"),
         tag("text", _label(point, sides.get(point)), x=x + 15, y=at - over + 4, class_="name"))
        for x, y, at, point in rows
    )  # fmt: skip


def _label(point: CostPoint, side: int | None) -> str:
    """Return the name, with the accuracy if the mark is at the edge."""
    name = short(point.name, 18)
    return name if side is None else f"{name} {'↑' if side > 0 else '↓'} {100 * point.accuracy:.1f} %"
