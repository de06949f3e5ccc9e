"""Axes, ticks and marks of figures, and values too far away for a common scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from limbeck.report.markup import Markup, join, tag

Number = float | int


class AxisScale(NamedTuple):
    """Where on the page a value stands: from `low` at `start` to `high` at `end`, in SVG units.

    Attributes:
        low: The value at `start`.
        high: The value at `end`.
        start: The place of `low`.
        end: The place of `high`.
        logarithmic: Whether equal ratios are equally far apart.
        named: The ticks, where they are not simply round values.
    """

    low: Number
    high: Number
    start: Number
    end: Number
    logarithmic: bool = False
    named: tuple[float, ...] = ()

    def __call__(self, value: Number) -> Number:
        """The place of a value; what lies outside is held at the edge."""
        low, high, at = (math.log10(v) for v in (self.low, self.high, max(value, 1e-300))) if self.logarithmic else (
            self.low, self.high, value)  # fmt: skip
        share = (at - low) / (high - low)
        return self.start + min(max(share, -0.05), 1.05) * (self.end - self.start)

    @property
    def ticks(self) -> list[Number]:
        """The named values, or round ones, between the ends."""
        if self.named:
            return [value for value in self.named if self.low <= value <= self.high]
        return _decades(self.low, self.high) if self.logarithmic else steps(self.low, self.high)


class Plot(NamedTuple):
    """A pair of scales with a frame around them."""

    x: AxisScale
    y: AxisScale

    def at(self, x: Number, y: Number) -> tuple[Number, Number]:
        """A point's place."""
        return self.x(x), self.y(y)

    def line(self, points: Sequence[tuple[Number, Number]], **attributes: Any) -> Markup:
        """A line through points."""
        placed = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*point) for point in points))
        return tag("polyline", points=placed, fill="none", **attributes)


def padded_limits(
    values: Sequence[Number], *, least: Number = 0.004, floor: Number | None = None, ceiling: Number | None = None,
    margin: Number = 0.08,
) -> tuple[Number, Number]:  # fmt: skip
    """The ends of a scale that holds all values with some air; not beyond `floor` and `ceiling`."""
    found = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(found), max(found)
    wide = max(high - low, least)
    middle = (low + high) / 2
    low, high = min(low, middle - wide / 2) - margin * wide, max(high, middle + wide / 2) + margin * wide
    low = low if floor is None else max(low, floor)
    high = high if ceiling is None else min(high, ceiling)
    return (low, high) if high > low else (low - least, high + least)


def log_limits(values: Sequence[Number]) -> tuple[Number, Number]:
    """The ends of a logarithmic scale."""
    found = [math.log10(value) for value in values if value > 0 and math.isfinite(value)] or [0.0]
    low, high = padded_limits(found, least=0.6, margin=0.14)
    return 10.0**low, 10.0**high


def steps(low: Number, high: Number, *, most: int = 5) -> list[Number]:
    """Round values from `low` to `high`, at most about so many."""
    wide = max((high - low) / most, 1e-12)
    power = 10.0 ** math.floor(math.log10(wide))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= wide * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(step * i, 12) + 0.0 for i in range(first, math.floor(high / step + 1e-9) + 1)]


def frame(plot: Plot, *, x_label: str, y_label: str, x_text: Callable[[Number], str], y_text: Callable[[Number], str]
          ) -> Markup:  # fmt: skip
    """Grid lines, the words at the ticks and at the axes."""
    left, right, bottom, top = plot.x.start, plot.x.end, plot.y.start, plot.y.end
    across = [
        (tag("line", x1=left, x2=right, y1=plot.y(t), y2=plot.y(t), class_="grid"),
         tag("text", y_text(t), x=left - 8, y=plot.y(t) + 4, class_="tick", text_anchor="end"))
        for t in plot.y.ticks
    ]  # fmt: skip
    along = [
        (tag("line", x1=plot.x(t), x2=plot.x(t), y1=bottom, y2=top, class_="grid"),
         tag("text", x_text(t), x=plot.x(t), y=bottom + 18, class_="tick", text_anchor="middle"))
        for t in plot.x.ticks
    ]  # fmt: skip
    words = [
        tag("text", x_label, x=(left + right) / 2, y=bottom + 38, class_="axis", text_anchor="middle"),
        tag("text", y_label, x=left, y=top - 12, class_="axis"),
    ]
    return join(across, along, words)


def mark(
    style: int, x: Number, y: Number, *, size: Number = 5.0, title: str | None = None, class_: str = "mark"
) -> Markup:
    """A mark whose shape, like its color, tells the arm: nobody needs to see colors to read a figure."""
    shape = _SHAPES[style % len(_SHAPES)]
    inside = tag("title", title) if title else None
    css = f"{class_} s{style % STYLES}"
    if shape is None:
        return tag("circle", inside, cx=x, cy=y, r=size, class_=css)
    points = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in shape)
    return tag("polygon", inside, points=points, class_=css)


STYLES = 12

"""How many colors there are; beyond them they come round again."""

_SHAPES: tuple[tuple[tuple[Number, Number], ...] | None, ...] = (
    ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    None,
    ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    ((0, -1.2), (1.15, 0.9), (-1.15, 0.9)),
    ((0, 1.2), (1.15, -0.9), (-1.15, -0.9)),
    ((-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4), (0.4, 1.2), (-0.4, 1.2),
     (-0.4, 0.4), (-1.2, 0.4), (-1.2, -0.4), (-0.4, -0.4)),
    ((0, -1.25), (1.2, -0.35), (0.75, 1.05), (-0.75, 1.05), (-1.2, -0.35)),
    ((-1.25, 0), (-0.6, -1.1), (0.6, -1.1), (1.25, 0), (0.6, 1.1), (-0.6, 1.1)),
    ((-1.2, 0), (0.9, -1.15), (0.9, 1.15)),
    ((1.2, 0), (-0.9, -1.15), (-0.9, 1.15)),
    ((-0.45, -1.25), (0.45, -1.25), (0.45, 1.25), (-0.45, 1.25)),
    ((-1.25, -0.45), (1.25, -0.45), (1.25, 0.45), (-1.25, 0.45)),
)  # fmt: skip

"""Square, circle, diamond, triangles, cross, pentagon, hexagon, triangles, bars; None is the circle."""


def percent_grid(x: AxisScale, top: Number, bottom: Number) -> list[Any]:
    """A line for each tick of a scale of percentages, and its number below."""
    return [
        (tag("line", x1=x(t), x2=x(t), y1=top, y2=bottom, class_="grid"),
         tag("text", f"{t:g} %", x=x(t), y=bottom + 17, class_="tick", text_anchor="middle"))
        for t in x.ticks
    ]  # fmt: skip


def svg(*marks: Any, width: Number, height: Number, label: str, class_: str = "") -> Markup:
    """A drawing of so many units, as wide as its place allows, with what it shows in words for those who hear it."""
    return tag("svg", *marks, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=label, class_=class_ or None,
               style=f"max-width:{width:g}px")  # fmt: skip


def _decades(low: Number, high: Number) -> list[Number]:
    found = [
        m * 10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for m in (1, 2, 5)
    ]
    inside = [value for value in found if low <= value <= high]
    return inside if len(inside) <= 6 else [v for v in inside if f"{v:.0e}"[0] == "1"]


Span = tuple[float, float]

"""From where to where something reaches: an interval, or the same value twice."""

FAR = 4.0

"""Far off is what would leave the others less than a fifth of the scale."""


def outliers(spans: Sequence[Span | None], *, least: float, kept: Collection[int] = ()) -> dict[int, int]:
    """What stands at the edge of a scale, by its place among the spans: -1 lies far below the others, 1 far above.

    The others are more than half of all, the closest that lie together. All that is far off is further from them than
    four times what they take up, so that nothing which they could be compared with by eye is moved. Fewer than three
    spans are never far off each other.

    Args:
        spans: What the scale would hold; None is nowhere on it.
        least: In the scale's unit, what the others take up at least: nothing that is nearer than four times this moves.
        kept: The places of those that must stay on the scale.

    Example:
        >>> outliers([(90.0, 91.0), (89.0, 92.0), (12.0, 14.0)], least=1.0)
        {2: -1}
    """
    known = {place: span for place, span in enumerate(spans) if span is not None}
    order = sorted(known, key=lambda place: sum(known[place]))
    must = set(kept) & set(known)
    found: tuple[float, dict[int, int]] = (float("inf"), {})
    for first in range((len(order) + 1) // 2):
        for last in range(first + len(order) // 2, len(order)):
            inside = order[first : last + 1]
            low, high = min(known[one][0] for one in inside), max(known[one][1] for one in inside)
            below, above = order[:first], order[last + 1 :]
            if high - low >= found[0] or not must <= set(inside):
                continue
            room = FAR * max(high - low, least)
            if all(known[one][1] < low - room for one in below) and all(known[one][0] > high + room for one in above):
                found = high - low, {**dict.fromkeys(below, -1), **dict.fromkeys(above, 1)}
    return found[1]


def axis_values(points: Sequence[float], ends: Sequence[float], *, least: float) -> list[float]:
    """What a scale is made for: all points, and the ends of their intervals but for those that lie far off.

    Two seeds may give an interval so wide that nothing else could be seen; `reach` draws it up to the edge.
    """
    every = [*points, *ends]
    cut = outliers([(value, value) for value in every], least=least, kept=range(len(points)))
    return [value for place, value in enumerate(every) if place not in cut]


def clip_interval(scale: AxisScale, low: float, high: float) -> tuple[tuple[float, int], tuple[float, int]]:
    """Where an interval's ends are drawn, and which of them lies beyond the edge: -1 or 1, else 0."""
    return (
        (scale(max(low, scale.low)), -1 if low < scale.low else 0),
        (scale(min(high, scale.high)), 1 if high > scale.high else 0),
    )


def arrow_head(x: float, y: float, side: int) -> Markup:
    """The head of an arrow at the end of a row: what it belongs to goes on beyond the edge."""
    return tag("polyline", points=f"{x - 6 * side:.1f},{y - 5:.1f} {x:.1f},{y:.1f} {x - 6 * side:.1f},{y + 5:.1f}",
               fill="none", class_="whisker")  # fmt: skip


def edge_marker(side: int, x: AxisScale, y: float, *, title: str) -> Markup:
    """An arrow at the end of a row beyond which something lies; its number stands beside the row."""
    said, place, anchor = ("far off →", x.end, "end") if side > 0 else ("← far off", x.start, "start")
    return tag("text", tag("title", title), said, x=place, y=y + 5, text_anchor=anchor, class_="axis")


def named_far(names: Sequence[str]) -> str:
    """For those who hear a figure: who lies beyond its scale."""
    return f" Far off, beyond the scale: {', '.join(names)}." if names else ""
