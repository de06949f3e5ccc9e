"""Figures of calibration and of the confidence compared with the teacher's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from limbeck.report.axes import AxisScale, Plot, frame, mark, svg
from limbeck.report.markup import Markup, join, tag

_WIDTH, _HEIGHT = 520.0, 380.0

_MOST = 700

_TICKS = {math.log(p / (1 - p)): f"{100 * p:g}" for p in (0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)}

"""Log-odds of the tick labels."""


def deviation_figure(
    x: Sequence[float], y: Sequence[float], right: Sequence[bool], *, line: tuple[float, float] | None
) -> Markup:
    """Plot the student's log-odds of the teacher's class against the teacher's. On the diagonal they are equal.

    Args:
        x: The teacher's log-odds ``log p / (1 - p)``, one for each example.
        y: The student's log-odds for the same class.
        right: Whether the teacher is correct.
        line: Slope and intercept of the least-squares line. A slope above 1 means that the student exaggerates.
    """
    rows = range(0, len(x), max(1, -(-len(x) // _MOST)))
    # A probability that rounds to 1 has infinite log-odds and is drawn at the edge.
    across, along = [_clip(x[i]) for i in rows], [_clip(y[i]) for i in rows]
    low, high = min([*across, *along, -1.0]) - 0.5, max([*across, *along, 3.0]) + 0.5
    plot = Plot(
        AxisScale(low, high, 62, _WIDTH - 20, named=tuple(_TICKS)),
        AxisScale(low, high, _HEIGHT - 58, 40, named=tuple(_TICKS)),
    )
    dots = [dot(plot.x(a), plot.y(b), right=right[i]) for i, a, b in zip(rows, across, along, strict=True)]
    fit_line = None
    if line is not None:
        ends = [(a, line[0] * a + line[1]) for a in (min(across), max(across))]
        fit_line = plot.line(ends, class_="fitted")
    summary = "no line fits" if line is None else f"slope {line[0]:.2f}"
    return svg(
        frame(plot, x_label="teacher's probability for its own class, % (log-odds scale)",
              y_label="student's probability for the same class, %", x_text=_percent, y_text=_percent),
        tag("line", x1=plot.x(low), y1=plot.y(low), x2=plot.x(high), y2=plot.y(high), class_="diagonal"),
        dots, fit_line, width=_WIDTH, height=_HEIGHT,
        label=f"Student's against teacher's confidence in the teacher's class, {len(dots)} examples; {summary}.",
    )  # fmt: skip


def dot(x: float, y: float, *, right: bool) -> Markup:
    """Draw one example: filled if the teacher is correct, else hollow."""
    return tag("circle", cx=x, cy=y, r=2.6, class_=f"dot {'s0' if right else 's2 hollow'}")


def _clip(value: float) -> float:
    return min(max(value, -9.0), 9.0)


def _percent(log_odds: float) -> str:
    return min(_TICKS.items(), key=lambda tick: abs(tick[0] - log_odds))[1]


class Bin(NamedTuple):
    """Predictions of similar confidence: mean confidence, accuracy, and share of all predictions."""

    confidence: float
    accuracy: float
    share: float


JOINED = 0.005

"""Smallest share of the examples for a bin to be joined by the line; smaller bins are too noisy."""

_WIDTH, _TOP, _SIDE = 520.0, 40.0, 330.0

_STRIP = 50.0


def reliability_figure(models: Mapping[str, tuple[int, Sequence[Bin]]]) -> Markup:
    """Plot accuracy against confidence, with the diagonal of perfect calibration, and a histogram of confidences.

    Args:
        models: Name -> style and non-empty bins.
    """
    start = 62.0
    plot = Plot(AxisScale(0, 1, start, start + _SIDE + 70), AxisScale(0, 1, _TOP + _SIDE - 60, _TOP))
    grid = frame(plot, x_label="confidence: the largest probability", y_label="accuracy, %",
                 x_text=lambda v: f"{100 * v:g}", y_text=lambda v: f"{100 * v:g}")  # fmt: skip
    base = plot.y.start + 56
    strips = [
        _strip(name, style, bins, plot, base + i * _STRIP) for i, (name, (style, bins)) in enumerate(models.items())
    ]
    lines = [_line(name, style, bins, plot) for name, (style, bins) in models.items()]
    summary = "; ".join(f"{name}: mean confidence {_mean(bins, 0):.1f} %, accuracy {_mean(bins, 1):.1f} %"
                     for name, (_, bins) in models.items())  # fmt: skip
    diagonal = tag("line", x1=plot.x(0), y1=plot.y(0), x2=plot.x(1), y2=plot.y(1), class_="diagonal")
    return svg(
        grid, diagonal,
        tag("text", "overconfident", x=plot.x(0.94), y=plot.y(0.06), class_="tick", text_anchor="end"),
        tag("text", "underconfident", x=plot.x(0.06), y=plot.y(0.92), class_="tick"),
        lines, strips, width=_WIDTH, height=base + _STRIP * len(models) + 6, label=f"Reliability. {summary}.",
    )  # fmt: skip


def _line(name: str, style: int, bins: Sequence[Bin], plot: Plot) -> Markup:
    points = [(b.confidence, b.accuracy) for b in bins if b.share >= JOINED]
    marks = [
        mark(style, *plot.at(b.confidence, b.accuracy), size=2.5 + 5.5 * b.share**0.5,
             title=f"{name}: confidence {100 * b.confidence:.1f} %, accuracy {100 * b.accuracy:.1f} %, "
                   f"{100 * b.share:.1f} % of the examples")
        for b in bins
    ]  # fmt: skip
    return join(plot.line(points, class_=f"curve strong s{style}"), marks)


def _strip(name: str, style: int, bins: Sequence[Bin], plot: Plot, base: float) -> Markup:
    """Draw a histogram of the confidences."""
    high = max((b.share for b in bins), default=1.0)
    wide = (plot.x.end - plot.x.start) / 15 - 2
    bars = [
        tag("rect", x=min(max(plot.x(b.confidence) - wide / 2, plot.x.start), plot.x.end - wide),
            y=base + 38 - 26 * b.share / high, width=wide, height=26 * b.share / high, class_=f"bar s{style}")
        for b in bins
    ]  # fmt: skip
    return tag("g", bars, tag("text", name, x=plot.x.start + 4, y=base + 8, class_="tick"),
               tag("line", x1=plot.x.start, x2=plot.x.end, y1=base + 38, y2=base + 38, class_="grid"))  # fmt: skip


def _mean(bins: Sequence[Bin], which: int) -> float:
    return 100 * sum(b[which] * b.share for b in bins)
