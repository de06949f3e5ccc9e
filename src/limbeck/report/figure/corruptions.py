"""How fast does each arm lose its accuracy as images get worse?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from limbeck.report.axes import Plot, Scale, around, frame, mark, svg
from limbeck.report.markup import Markup, join, tag


class Decline(NamedTuple):
    """An arm's accuracy (fractions) on images as they are and at each severity, the mean over corruptions.

    Attributes:
        name: The arm.
        style: Its colour and shape.
        means: From severity 0, the images as they are, upward.
        stds: Each one's standard deviation over the seeds; None where there is but one seed.
    """

    name: str
    style: int
    means: Sequence[float]
    stds: Sequence[float | None]


_WIDTH, _HEIGHT, _TOP, _BOTTOM = 520.0, 330.0, 40.0, 272.0


def corruptions_figure(arms: Sequence[Decline]) -> Markup:
    """Accuracy against severity, a line for each arm, with its standard deviation over seeds."""
    pairs = [pair for arm in arms for pair in zip(arm.means, arm.stds, strict=True)]
    ends = [100 * (mean + sign * (std or 0.0)) for mean, std in pairs for sign in (-1, 1)]
    last = max(len(arm.means) for arm in arms) - 1
    x = Scale(0, last, 62, _WIDTH - 24, named=tuple(float(i) for i in range(last + 1)))
    plot = Plot(x, Scale(*around(ends, least=2.0, floor=0.0, ceiling=100.0), _BOTTOM, _TOP))
    grid = frame(plot, x_label="severity", y_label="accuracy, %, mean over corruptions",
                 x_text=lambda v: f"{v:g}" if v else "clean", y_text=lambda v: f"{v:g}")  # fmt: skip
    said = "; ".join(f"{arm.name} from {100 * arm.means[0]:.1f} to {100 * arm.means[-1]:.1f} %" for arm in arms)
    return svg(grid, [_line(arm, plot, i - (len(arms) - 1) / 2) for i, arm in enumerate(arms)],
               width=_WIDTH, height=_HEIGHT, label=f"Accuracy on images that get worse. {said}.")  # fmt: skip


def _line(arm: Decline, plot: Plot, beside: float) -> Markup:
    """An arm's line and marks; whiskers stand a little beside each other, so that all are seen."""
    points = [(float(i), 100 * mean) for i, mean in enumerate(arm.means)]
    whiskers = [
        tag("line", x1=plot.x(i) + 4 * beside, x2=plot.x(i) + 4 * beside, y1=plot.y(max(100 * (mean - std), 0.0)),
            y2=plot.y(min(100 * (mean + std), 100.0)), class_=f"whisker s{arm.style}")
        for i, (mean, std) in enumerate(zip(arm.means, arm.stds, strict=True)) if std is not None
    ]  # fmt: skip
    marks = [
        mark(arm.style, *plot.at(i, value), size=4.5,
             title=f"{arm.name}, {f'severity {i:g}' if i else 'clean'}: {value:.2f} %")
        for i, value in points
    ]  # fmt: skip
    return join(plot.line(points, class_=f"curve strong s{arm.style}"), whiskers, marks)
