"""Figures of CKA and of corruptions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

import numpy as np

from limbeck.report.axes import AxisScale, Plot, frame, mark, padded_limits, svg
from limbeck.report.markup import Markup, data_uri, join, tag

_WIDTH, _LEFT, _RIGHT, _TOP = 520.0, 150.0, 58.0, 104.0

_CELL = 48.0

_LETTERED = 24

"""With more layers than this on a side there is no room for text, and the cells become one image."""

_BLUE = (11, 103, 168)

Values = Sequence[Sequence[float]]


def cka_figure(values: Values, student: Sequence[str], teacher: Sequence[str], *, who: str) -> Markup:
    """Plot the similarity of every student layer (row) to every teacher layer (column), shaded from 0 to 1.

    The scale is the same in every figure. Unbiased estimates can be slightly below 0; these are drawn as 0.

    Args:
        values: A row for each layer of the student; nan for a layer that is constant over all examples.
        student: Names of the student's layers.
        teacher: Names of the teacher's layers.
        who: The name of the arm.
    """
    across = _WIDTH - _LEFT - _RIGHT
    wide = min(across / len(teacher), _CELL)
    high = min(wide, across / len(student)) if len(student) > _LETTERED else max(min(wide, _CELL), 17.0)
    width, height = wide * len(teacher), high * len(student)
    few = max(len(student), len(teacher)) <= _LETTERED
    inside = _cells(values, student, teacher, wide, high) if few else _picture(values, width, height)
    rows, columns = _short_names(student, 20), _short_names(teacher, 12)
    best = [max((value for value in row if math.isfinite(value)), default=math.nan) for row in values]
    named = zip(student, best, strict=True)
    summary = ", ".join(f"{name} {value:.2f}" for name, value in named if math.isfinite(value))
    return svg(
        tag("rect", x=_LEFT, y=_TOP, width=width, height=height, class_="edge"),
        inside,
        [
            tag("text", rows[i], x=_LEFT - 8, y=_TOP + (i + 0.5) * high + 4, text_anchor="end",
                class_="tick")
            for i in _labeled_indices(student, few)
        ],
        [_leaning(columns[j], _LEFT + (j + 0.5) * wide + 3) for j in _labeled_indices(teacher, few)],
        tag("text", "teacher's layers", x=_LEFT, y=14, class_="axis"),
        tag("text", "student's layers", x=8, y=_TOP - 10, class_="axis"),
        width=_WIDTH, height=_TOP + height + 10,
        label=f"Similarity of layers, {who}. Highest similarity of each layer: {summary or 'none'}.",
    )  # fmt: skip


def _cells(values: Values, student: Sequence[str], teacher: Sequence[str], wide: float, high: float) -> list[Markup]:
    marks = []
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            finite = math.isfinite(value)
            share, label = _share(value), f"{value:.2f}" if finite else "-"
            x, y = _LEFT + j * wide, _TOP + i * high
            title = tag("title", f"{student[i]}, teacher's {teacher[j]}: {label}")
            marks.append(tag("rect", title, x=x, y=y, width=wide, height=high, class_="cell fewer",
                             fill_opacity=round(share, 3)))  # fmt: skip
            if wide >= 30:
                marks.append(tag("text", label, x=x + wide / 2, y=y + high / 2 + 4, text_anchor="middle",
                                 class_="cell-text on" if share > 0.6 else "cell-text"))  # fmt: skip
    return marks


def _picture(values: Values, width: float, height: float) -> list[Markup]:
    """Draw all cells as one image whose opacity is the shade, so that it fits light and dark pages."""
    pixels = np.zeros((len(values), len(values[0]), 4), dtype=np.uint8)
    pixels[:, :, :3] = _BLUE
    pixels[:, :, 3] = [[round(255 * _share(value)) for value in row] for row in values]
    return [tag("image", href=data_uri(pixels), x=_LEFT, y=_TOP, width=width, height=height,
                preserveAspectRatio="none", class_="pixels")]  # fmt: skip


def _share(value: float) -> float:
    return min(max(value, 0.0), 1.0) if math.isfinite(value) else 0.0


def _labeled_indices(names: Sequence[str], few: bool) -> list[int]:
    """Return the layers to label: all, or the first and the last."""
    return list(range(len(names))) if few else sorted({0, len(names) - 1})


def _leaning(name: str, x: float) -> Markup:
    y = _TOP - 6
    return tag("text", name, x=x, y=y, class_="tick", transform=f"rotate(-55 {x:.1f} {y:.1f})")


def _short_names(names: Sequence[str], most: int) -> list[str]:
    """Shorten layer names: drop their common prefix and their middle. The table has the full names.

    Example:
        >>> _short_names(["encoder.layer.0.output.dense", "encoder.layer.11.output.dense"], 12)
        ['0.outp….dense', '11.out….dense']
    """
    parts = [name.split(".") for name in names]
    shared = len(list(takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False))))
    own = [".".join(part[shared:]) or name for name, part in zip(names, parts, strict=True)]
    return [name if len(name) <= most else f"{name[: most // 2]}…{name[-(most // 2) :]}" for name in own]


class Decline(NamedTuple):
    """An arm's accuracy (fractions) on clean images and at each severity, averaged over corruptions.

    Attributes:
        name: The arm.
        style: Its color and shape.
        means: Accuracy from severity 0 (clean images) upward.
        stds: Standard deviations over the seeds; None for a single seed.
    """

    name: str
    style: int
    means: Sequence[float]
    stds: Sequence[float | None]


_WIDTH, _HEIGHT, _TOP, _BOTTOM = 520.0, 330.0, 40.0, 272.0


def corruptions_figure(arms: Sequence[Decline]) -> Markup:
    """Plot accuracy against severity, a line for each arm, with the standard deviation over seeds."""
    pairs = [pair for arm in arms for pair in zip(arm.means, arm.stds, strict=True)]
    ends = [100 * (mean + sign * (std or 0.0)) for mean, std in pairs for sign in (-1, 1)]
    last = max(len(arm.means) for arm in arms) - 1
    x = AxisScale(0, last, 62, _WIDTH - 24, named=tuple(float(i) for i in range(last + 1)))
    plot = Plot(x, AxisScale(*padded_limits(ends, least=2.0, floor=0.0, ceiling=100.0), _BOTTOM, _TOP))
    grid = frame(plot, x_label="severity", y_label="accuracy, %, mean over corruptions",
                 x_text=lambda v: f"{v:g}" if v else "clean", y_text=lambda v: f"{v:g}")  # fmt: skip
    summary = "; ".join(f"{arm.name} from {100 * arm.means[0]:.1f} to {100 * arm.means[-1]:.1f} %" for arm in arms)
    return svg(grid, [_line(arm, plot, i - (len(arms) - 1) / 2) for i, arm in enumerate(arms)],
               width=_WIDTH, height=_HEIGHT, label=f"Accuracy on corrupted images. {summary}.")  # fmt: skip


def _line(arm: Decline, plot: Plot, beside: float) -> Markup:
    """Draw the line and marks of an arm. Whiskers are shifted a little, so that they do not overlap."""
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
