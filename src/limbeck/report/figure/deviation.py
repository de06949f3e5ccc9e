"""Where is the student surer than its teacher, and where less sure?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from limbeck.report.axes import Plot, Scale, frame, svg
from limbeck.report.markup import Markup, tag

_WIDTH, _HEIGHT = 520.0, 380.0
_MOST = 700
_TICKS = {math.log(p / (1 - p)): f"{100 * p:g}" for p in (0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)}
"""Log-odds at which the axes say a probability."""


def deviation_figure(
    x: Sequence[float], y: Sequence[float], right: Sequence[bool], *, line: tuple[float, float] | None
) -> Markup:
    """The student's log-odds against the teacher's, for the teacher's class; on the diagonal they are as sure.

    Args:
        x: The teacher's log-odds ``log p / (1 - p)``, one for each example.
        y: The student's for the same class.
        right: Whether the teacher's class is the label's.
        line: Slope and intercept of the least-squares line; above slope 1 the student exaggerates the confidence.
    """
    kept = range(0, len(x), max(1, -(-len(x) // _MOST)))
    # A probability of one within rounding has endless log-odds, and is drawn at the edge.
    across, along = [_held(x[i]) for i in kept], [_held(y[i]) for i in kept]
    low, high = min([*across, *along, -1.0]) - 0.5, max([*across, *along, 3.0]) + 0.5
    plot = Plot(
        Scale(low, high, 62, _WIDTH - 20, named=tuple(_TICKS)), Scale(low, high, _HEIGHT - 58, 40, named=tuple(_TICKS))
    )
    dots = [dot(plot.x(a), plot.y(b), right=right[i]) for i, a, b in zip(kept, across, along, strict=True)]
    fitted = None
    if line is not None:
        ends = [(a, line[0] * a + line[1]) for a in (min(across), max(across))]
        fitted = plot.line(ends, class_="fitted")
    said = "no line fits" if line is None else f"slope {line[0]:.2f}"
    return svg(
        frame(plot, x_label="teacher's probability for its own class, % (log-odds scale)",
              y_label="student's probability for the same class, %", x_text=_percent, y_text=_percent),
        tag("line", x1=plot.x(low), y1=plot.y(low), x2=plot.x(high), y2=plot.y(high), class_="diagonal"),
        dots, fitted, width=_WIDTH, height=_HEIGHT,
        label=f"Student's against teacher's confidence in the teacher's class, {len(dots)} examples; {said}.",
    )  # fmt: skip


def dot(x: float, y: float, *, right: bool) -> Markup:
    """One example: full where the teacher is right, hollow where it is wrong."""
    return tag("circle", cx=x, cy=y, r=2.6, class_=f"dot {'s0' if right else 's2 hollow'}")


def _held(value: float) -> float:
    return min(max(value, -9.0), 9.0)


def _percent(log_odds: float) -> str:
    return min(_TICKS.items(), key=lambda tick: abs(tick[0] - log_odds))[1]
