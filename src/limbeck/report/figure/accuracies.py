"""How accurate is every arm, seed by seed?"""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.report.arms import Arm
from limbeck.report.axes import Scale, around, mark, percent_grid, svg
from limbeck.report.figure.differences import short
from limbeck.report.markup import Markup, tag

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW = 960.0, 220.0, 190.0, 14.0, 34.0


def accuracies_figure(arms: Sequence[Arm]) -> Markup:
    """A small mark for every seed, a bar for the mean, a band for its 95 % interval."""
    shown = [arm for arm in arms if arm.accuracy.values]
    ends = [100 * v for arm in shown for v in (*arm.accuracy.values, *_interval(arm))]
    x = Scale(*around(ends, floor=0.0, ceiling=100.0), _LEFT, _WIDTH - _RIGHT)
    bottom = _TOP + _ROW * len(shown)
    rows = [_row(arm, x, _TOP + _ROW * (i + 0.5)) for i, arm in enumerate(shown)]
    said = "; ".join(f"{arm.name} {_said(arm)}" for arm in shown)
    return svg(
        percent_grid(x, _TOP, bottom),
        rows,
        width=_WIDTH,
        height=bottom + 26,
        label=f"Test accuracy of every arm. {said}.",
    )


def _row(arm: Arm, x: Scale, y: float) -> Markup:
    band = None
    if interval := _interval(arm):
        low, high = (x(100 * end) for end in interval)
        band = tag("rect", x=low, width=max(high - low, 1.0), y=y - 8, height=16, rx=3, class_="band")
    mean = arm.accuracy.mean
    at = None if mean is None else x(100 * mean)
    return tag(
        "g",
        tag("text", short(arm.name, 26), x=_LEFT - 14, y=y + 5, text_anchor="end"),
        band,
        [
            mark(
                arm.style,
                x(100 * v),
                y,
                size=4.0 if len(arm.accuracy.values) > 1 else 6,
                class_="seed",
                title=f"{100 * v:.2f} %",
            )
            for v in arm.accuracy.values
        ],
        None
        if at is None or len(arm.accuracy.values) < 2
        else tag("line", x1=at, x2=at, y1=y - 12, y2=y + 12, class_="mean"),
        tag("text", _said(arm), x=_WIDTH - _RIGHT + 16, y=y + 5, class_="value"),
        class_=f"arm s{arm.style}",
    )


def _interval(arm: Arm) -> tuple[float, ...]:
    mean, half = arm.accuracy.mean, arm.accuracy.half
    return () if mean is None or half is None else (max(mean - half, 0.0), min(mean + half, 1.0))


def _said(arm: Arm) -> str:
    mean, half = arm.accuracy.mean, arm.accuracy.half
    if mean is None:
        return "not a number for every seed"
    return f"{100 * mean:.2f} %" + ("" if half is None else f" ± {100 * half:.2f}")
