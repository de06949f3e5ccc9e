"""Figure of the accuracy of every arm and seed."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from limbeck.report.arms import ArmRow
from limbeck.report.axes import (
    AxisScale,
    arrow_head,
    axis_values,
    clip_interval,
    edge_marker,
    mark,
    outlier_sentence,
    outliers,
    padded_limits,
)
from limbeck.report.figures.differences import short
from limbeck.report.markup import Markup, join, tag
from limbeck.report.row_layout import WIDE, Layout, percent_figure

_TOP, _ROW = 14.0, 34.0


def accuracies_figure(arms: Sequence[ArmRow], *, pinned: Collection[str] = (), layout: Layout = WIDE) -> Markup:
    """Plot every seed as a mark, the mean as a bar, and ± one standard deviation as a band; outliers at the edge.

    Args:
        arms: From top to bottom. Arms without a number are left out.
        pinned: Names of arms that are never drawn at the edge.
        layout: The window width to draw for.
    """
    drawn_arms = [arm for arm in arms if arm.accuracy.values]
    spans = [(100 * min(arm.accuracy.values), 100 * max(arm.accuracy.values)) for arm in drawn_arms]
    far = outliers(spans, least=1.0, pinned=[i for i, arm in enumerate(drawn_arms) if arm.name in pinned])
    points = [end for i, span in enumerate(spans) if i not in far for end in span]
    intervals = [100 * end for i, arm in enumerate(drawn_arms) if i not in far for end in _band(arm)]
    ends = axis_values(points, intervals, least=1.0)
    x = layout.scale(*padded_limits(ends, floor=0.0, ceiling=100.0))
    bottom = _TOP + layout.height(_ROW) * len(drawn_arms)
    rows = [_row(arm, x, layout.middle(_TOP, _ROW, i), far.get(i), layout) for i, arm in enumerate(drawn_arms)]
    summary = (
        "; ".join(f"{arm.name} {_value_text(arm)}" for arm in drawn_arms)
        + "."
        + outlier_sentence([drawn_arms[i].name for i in sorted(far)])
    )
    label = f"Test accuracy of every arm. {summary}"
    return percent_figure(x, rows, top=_TOP, bottom=bottom, layout=layout, label=label)


def _row(arm: ArmRow, x: AxisScale, y: float, side: int | None, layout: Layout) -> Markup:
    drawn = (
        _seeds_and_band(arm, x, y) if side is None else edge_marker(side, x, y, title=f"{arm.name}: {_value_text(arm)}")
    )
    return tag(
        "g",
        layout.words(short(arm.name, 26), _value_text(arm), y, _ROW),
        drawn,
        class_=f"arm s{arm.style}",
    )


def _seeds_and_band(arm: ArmRow, x: AxisScale, y: float) -> Markup:
    band = bar = None
    if interval := _band(arm):
        ends = clip_interval(x, *(100 * end for end in interval))
        low, high = (position for position, _ in ends)
        rectangle = tag("rect", x=low, width=max(high - low, 1.0), y=y - 8, height=16, rx=3, class_="band")
        band = join(rectangle, [arrow_head(position, y, out) for position, out in ends if out])
    several, mean = len(arm.accuracy.values) > 1, arm.accuracy.mean
    size = 4.0 if several else 6.0
    seeds = [
        mark(arm.style, x(100 * v), y, size=size, class_="seed", title=f"{100 * v:.2f} %") for v in arm.accuracy.values
    ]
    if several and mean is not None:
        at = x(100 * mean)
        bar = tag("line", x1=at, x2=at, y1=y - 12, y2=y + 12, class_="mean")
    return join(band, seeds, bar)


def _band(arm: ArmRow) -> tuple[float, ...]:
    mean, std = arm.accuracy.mean, arm.accuracy.std
    return () if mean is None or std is None else (max(mean - std, 0.0), min(mean + std, 1.0))


def _value_text(arm: ArmRow) -> str:
    mean, std = arm.accuracy.mean, arm.accuracy.std
    if mean is None:
        return "not a number for every seed"
    return f"{100 * mean:.2f} %" + ("" if std is None else f" ± {100 * std:.2f}")
