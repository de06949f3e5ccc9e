"""Axes, ticks, marks and outliers of figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from limbeck.report.markup import Markup, join, tag

Number = float | int


class AxisScale(NamedTuple):
    """Maps values to SVG units, from `low` at `start` to `high` at `end`.

    Attributes:
        low: The value at `start`.
        high: The value at `end`.
        start: The position of `low`.
        end: The position of `high`.
        logarithmic: Whether the scale is logarithmic.
        named: The ticks, if they are not round values.
    """

    low: Number
    high: Number
    start: Number
    end: Number
    logarithmic: bool = False
    named: tuple[float, ...] = ()

    def __call__(self, value: Number) -> Number:
        """Return the position of a value. Values outside the scale are clipped slightly beyond its ends."""
        low, high, at = (math.log10(v) for v in (self.low, self.high, max(value, 1e-300))) if self.logarithmic else (
            self.low, self.high, value)  # fmt: skip
        share = (at - low) / (high - low)
        # Slightly beyond the ends, so that a clipped mark is seen to lie outside.
        return self.start + min(max(share, -0.05), 1.05) * (self.end - self.start)

    @property
    def ticks(self) -> list[Number]:
        """The named values, or else round values, inside the scale."""
        if self.named:
            return [value for value in self.named if self.low <= value <= self.high]
        return _decades(self.low, self.high) if self.logarithmic else steps(self.low, self.high)


class Plot(NamedTuple):
    """A pair of scales with a frame around them."""

    x: AxisScale
    y: AxisScale

    def at(self, x: Number, y: Number) -> tuple[Number, Number]:
        """Return the position of a point."""
        return self.x(x), self.y(y)

    def line(self, points: Sequence[tuple[Number, Number]], **attributes: Any) -> Markup:
        """Draw a line through points."""
        positions = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*point) for point in points))
        return tag("polyline", points=positions, fill="none", **attributes)


def padded_limits(
    values: Sequence[Number], *, least: Number = 0.004, floor: Number | None = None, ceiling: Number | None = None,
    margin: Number = 0.08,
) -> tuple[Number, Number]:  # fmt: skip
    """Return scale limits that contain all values with a margin, within `floor` and `ceiling`."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    wide = max(high - low, least)
    middle = (low + high) / 2
    low, high = min(low, middle - wide / 2) - margin * wide, max(high, middle + wide / 2) + margin * wide
    low = low if floor is None else max(low, floor)
    high = high if ceiling is None else min(high, ceiling)
    return (low, high) if high > low else (low - least, high + least)


def log_limits(values: Sequence[Number]) -> tuple[Number, Number]:
    """Return the limits of a logarithmic scale."""
    logarithms = [math.log10(value) for value in values if value > 0 and math.isfinite(value)] or [0.0]
    low, high = padded_limits(logarithms, least=0.6, margin=0.14)
    return 10.0**low, 10.0**high


def steps(low: Number, high: Number, *, most: int = 5) -> list[Number]:
    """Return round values from `low` to `high`, about `most` at most."""
    wide = max((high - low) / most, 1e-12)
    power = 10.0 ** math.floor(math.log10(wide))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= wide * 0.999)
    # The 1e-9 keeps a limit that is a multiple of the step, which rounding would lose.
    first = math.ceil(low / step - 1e-9)
    return [round(step * i, 12) + 0.0 for i in range(first, math.floor(high / step + 1e-9) + 1)]


def frame(plot: Plot, *, x_label: str, y_label: str, x_text: Callable[[Number], str], y_text: Callable[[Number], str]
          ) -> Markup:  # fmt: skip
    """Draw grid lines, tick labels and axis labels."""
    start, end, bottom, top = plot.x.start, plot.x.end, plot.y.start, plot.y.end
    across = [
        (tag("line", x1=start, x2=end, y1=plot.y(t), y2=plot.y(t), class_="grid"),
         tag("text", y_text(t), x=start - 8, y=plot.y(t) + 4, class_="tick", text_anchor="end"))
        for t in plot.y.ticks
    ]  # fmt: skip
    along = [
        (tag("line", x1=plot.x(t), x2=plot.x(t), y1=bottom, y2=top, class_="grid"),
         tag("text", x_text(t), x=plot.x(t), y=bottom + 18, class_="tick", text_anchor="middle"))
        for t in plot.x.ticks
    ]  # fmt: skip
    words = [
        tag("text", x_label, x=(start + end) / 2, y=bottom + 38, class_="axis", text_anchor="middle"),
        tag("text", y_label, x=start, y=top - 12, class_="axis"),
    ]
    return join(across, along, words)


def mark(
    style: int, x: Number, y: Number, *, size: Number = 5.0, title: str | None = None, class_: str = "mark"
) -> Markup:
    """Draw a mark. Each style has its own shape and color, so figures can be read without colors."""
    shape = _SHAPES[style % len(_SHAPES)]
    inside = tag("title", title) if title else None
    css = f"{class_} s{style % STYLES}"
    if shape is None:
        return tag("circle", inside, cx=x, cy=y, r=size, class_=css)
    points = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in shape)
    return tag("polygon", inside, points=points, class_=css)


STYLES = 12

"""Number of colors; further arms reuse them."""

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
    """Draw a grid line and a label for each tick of a percentage scale."""
    return [
        (tag("line", x1=x(t), x2=x(t), y1=top, y2=bottom, class_="grid"),
         tag("text", f"{t:g} %", x=x(t), y=bottom + 17, class_="tick", text_anchor="middle"))
        for t in x.ticks
    ]  # fmt: skip


def svg(*marks: Any, width: Number, height: Number, label: str, class_: str = "") -> Markup:
    """Make an SVG element that scales with the page, with a text description for screen readers."""
    return tag("svg", *marks, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=label, class_=class_ or None,
               style=f"max-width:{width:g}px")  # fmt: skip


def _decades(low: Number, high: Number) -> list[Number]:
    candidates = [
        m * 10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for m in (1, 2, 5)
    ]
    inside = [value for value in candidates if low <= value <= high]
    return inside if len(inside) <= 6 else [v for v in inside if f"{v:.0e}"[0] == "1"]


Span = tuple[float, float]

"""An interval, or the same value twice."""

FAR = 4.0

"""A value is an outlier if the others would have less than a fifth of the scale."""


def outliers(spans: Sequence[Span | None], *, least: float, pinned: Collection[int] = ()) -> dict[int, int]:
    """Find spans that are drawn at the edge of a scale. Returns index -> -1 (far below the others) or 1 (far above).

    The others are the closest group with more than half of the spans. An outlier is further from them than four times
    their own width, so that values which can still be compared by eye stay on the scale. With fewer than three spans
    there are no outliers.

    Args:
        spans: The intervals on the scale; None for no value.
        least: Smallest width of the group of others, in the unit of the scale.
        pinned: Indices that must stay on the scale.

    Example:
        >>> outliers([(90.0, 91.0), (89.0, 92.0), (12.0, 14.0)], least=1.0)
        {2: -1}
    """
    placed = {index: span for index, span in enumerate(spans) if span is not None}
    order = sorted(placed, key=lambda index: sum(placed[index]))
    must = set(pinned) & set(placed)
    best: tuple[float, dict[int, int]] = (float("inf"), {})
    # Every contiguous group with more than half of the spans is a candidate; the narrowest one wins.
    for first in range((len(order) + 1) // 2):
        for last in range(first + len(order) // 2, len(order)):
            inside = order[first : last + 1]
            low, high = min(placed[i][0] for i in inside), max(placed[i][1] for i in inside)
            below, above = order[:first], order[last + 1 :]
            if high - low >= best[0] or not must <= set(inside):
                continue
            room = FAR * max(high - low, least)
            if all(placed[i][1] < low - room for i in below) and all(placed[i][0] > high + room for i in above):
                best = high - low, {**dict.fromkeys(below, -1), **dict.fromkeys(above, 1)}
    return best[1]


def axis_values(points: Sequence[float], ends: Sequence[float], *, least: float) -> list[float]:
    """Return the values that determine a scale: all points, and the interval ends that are not outliers.

    Two seeds may give an interval so wide that nothing else could be seen; `clip_interval` draws it up to the edge.
    """
    every = [*points, *ends]
    cut = outliers([(value, value) for value in every], least=least, pinned=range(len(points)))
    return [value for index, value in enumerate(every) if index not in cut]


def clip_interval(scale: AxisScale, low: float, high: float) -> tuple[tuple[float, int], tuple[float, int]]:
    """Return the positions of an interval's ends, each with -1 or 1 if it lies beyond the edge, else 0."""
    return (
        (scale(max(low, scale.low)), -1 if low < scale.low else 0),
        (scale(min(high, scale.high)), 1 if high > scale.high else 0),
    )


def arrow_head(x: float, y: float, side: int) -> Markup:
    """Draw the head of an arrow for a value or interval that continues beyond the edge."""
    return tag("polyline", points=f"{x - 6 * side:.1f},{y - 5:.1f} {x:.1f},{y:.1f} {x - 6 * side:.1f},{y + 5:.1f}",
               fill="none", class_="whisker")  # fmt: skip


def edge_marker(side: int, x: AxisScale, y: float, *, title: str) -> Markup:
    """Draw an arrow at the edge in place of an outlier, whose number is printed beside the row."""
    text, position, anchor = ("off scale →", x.end, "end") if side > 0 else ("← off scale", x.start, "start")
    return tag("text", tag("title", title), text, x=position, y=y + 5, text_anchor=anchor, class_="axis")


def outlier_sentence(names: Sequence[str]) -> str:
    """Return the sentence for screen readers that lists the outliers of a figure."""
    return f" Outliers beyond the scale: {', '.join(names)}." if names else ""
