"""Score against cost: latency and size, with the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from limbeck.report import axes
from limbeck.report.arms import ArmRow, ScoreFormat
from limbeck.report.axes import Axes
from limbeck.report.html import Markup, note, section, sized, tag
from limbeck.report.run_data import RunData, load_run
from limbeck.report.svg import figure

CostName = Literal["milliseconds", "megabytes"]

_LABELS: dict[CostName, str] = {
    "milliseconds": "milliseconds per example, one CPU thread",
    "megabytes": "megabytes of weights",
}

SAME = 1.05
"""Costs within this ratio count as equal, because timings of the same network differ by as much."""


class ParetoPoint(NamedTuple):
    """A model: its cost, its score, and the standard deviation of the score over seeds."""

    name: str
    style: int
    cost: float
    value: float
    std: float | None


def cost_points(arms: Sequence[ArmRow], cost: CostName) -> list[ParetoPoint]:
    """Return the models whose cost and score are known."""
    rows = ((arm, arm.number(cost), arm.score.mean) for arm in arms)
    return [
        ParetoPoint(arm.name, arm.style, value, mean, arm.score.std)
        for arm, value, mean in rows
        if value is not None and value > 0 and mean is not None
    ]


def pareto_front(points: Sequence[ParetoPoint], *, higher_is_better: bool = True) -> list[ParetoPoint]:
    """Return the points that no other point dominates. Costs within 5 % count as equal."""
    sign = 1.0 if higher_is_better else -1.0

    def beats(other: ParetoPoint, point: ParetoPoint) -> bool:
        if other.cost <= point.cost * SAME and sign * other.value > sign * point.value:
            return True
        return other.cost * SAME < point.cost and sign * other.value >= sign * point.value

    best = [point for point in points if not any(beats(other, point) for other in points)]
    return sorted(best, key=lambda point: (point.cost, point.value))


def plot_pareto(run: RunData | str | Path, *, cost: CostName = "milliseconds", ax: Axes | None = None) -> Axes:
    """Plot the primary metric on test data against a cost, with the Pareto front as a dotted line.

    Bars are ± one standard deviation over seeds. A model far from the others is an arrow with its number, unless it is
    on the front. Models of equal cost are drawn side by side.

    Args:
        run: The folder of a finished run, or what `read_run` returns.
        cost: ``milliseconds`` per example, or ``megabytes`` of weights.
        ax: Axes to draw on; by default those of a new figure.
    """
    run = load_run(run)
    ax = draw_pareto(cost_points(list(run.arms.values()), cost), cost, run.score, ax=ax)
    ax.legend(frameon=False)
    return ax


def draw_pareto(points: Sequence[ParetoPoint], cost: CostName, score: ScoreFormat, *, ax: Axes | None = None) -> Axes:
    """Draw models by cost and score; see `plot_pareto`."""
    front = pareto_front(points, higher_is_better=score.higher_is_better)
    values = [score.factor * point.value for point in points]
    pinned = [i for i, point in enumerate(points) if point in front]
    sides = axes.outliers([(value, value) for value in values], least=score.least, pinned=pinned)
    far = {points[i]: side for i, side in sides.items()}
    near = [point for point in points if point not in far]
    ends = [score.factor * (p.value + sign * (p.std or 0.0)) for p in near for sign in (-1, 1)]
    limits = score.limits(axes.axis_values([score.factor * p.value for p in near], ends, least=score.least),
                          least=score.least)  # fmt: skip

    ax = axes.new_axes(ax, height=340.0)
    low, high = axes.log_limits([point.cost for point in points])
    ax.set(xscale="log", xlim=(low, high), ylim=limits, xlabel=_LABELS[cost], ylabel=f"test {score.label}")
    ax.set_xticks(axes.log_ticks(low, high), minor=False)
    ax.set_xticks([], minor=True)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}" if value < 1000 else sized(value))
    axes.round_ticks(ax.yaxis)
    places = _places(points, low, high)
    heights = {point: _height(score.factor * point.value, far.get(point), limits) for point in points}
    ends_of_front = ([places[p] for p in front], [heights[p] for p in front])
    ax.plot(*ends_of_front, ":", color=axes.QUIET, linewidth=1.4, zorder=1.5)
    for point in points:
        _draw_point(ax, point, places[point], heights[point], far.get(point), point in front, score)
    outside = axes.outlier_sentence([f"{point.name} {score.text(point.value)}" for point in far])
    names = ", ".join(point.name for point in front)
    return axes.describe(ax, f"Test {score.title} against {_LABELS[cost]}. On the front: {names}.{outside}")


def _height(value: float, side: int | None, limits: axes.Interval) -> float:
    """Return the height of a mark. An outlier is inside the edge, with room for an arrow."""
    low, high = limits
    return value if side is None else high - 0.08 * (high - low) if side > 0 else low + 0.08 * (high - low)


def _draw_point(
    ax: Axes, point: ParetoPoint, x: float, y: float, side: int | None, is_best: bool, score: ScoreFormat
) -> None:
    paint, std = axes.color(point.style), score.factor * (point.std or 0.0)
    low, high = ax.get_ylim()
    edge = {"markeredgecolor": axes.ink(ax), "markeredgewidth": 1.8} if is_best else {}
    beyond = (("v", low, y - std < low), ("^", high, y + std > high))
    arrows = [(shape, end) for shape, end, is_out in beyond if is_out]  # the bar goes on beyond the edge
    if side is not None:
        arrows, std = [("^", high) if side > 0 else ("v", low)], 0.0
        ax.plot([x, x], [y, arrows[0][1]], color=paint, linewidth=2.0)
        edge = {"markerfacecolor": "none", "markeredgecolor": paint, "markeredgewidth": 1.6}
        text = f" {'↑' if side > 0 else '↓'} {axes.shorten(point.name, 18)}, {score.text(point.value)}"
        ax.annotate(text, (x, y), (7, 0), textcoords="offset points", va="center", **axes.text_style(ax, paint))
    elif std:
        ax.plot([x, x], [max(y - std, low), min(y + std, high)], color=paint, linewidth=2.0)
    for shape, end in arrows:
        ax.plot([x], [end], shape, color=paint, markersize=7.0, clip_on=False)
    line = ax.plot([x], [y], label=axes.shorten(point.name, 60), **axes.mark(point.style, 12.0, **edge))
    axes.set_tip(line, f"{point.name}: {score.text(point.value)}, {point.cost:.4g}")


def _places(points: Sequence[ParetoPoint], low: float, high: float) -> dict[ParetoPoint, float]:
    """Return horizontal positions. Models of equal cost are side by side, so that their bars do not overlap."""
    groups: list[list[ParetoPoint]] = []
    for point in sorted(points, key=lambda p: p.cost):
        if groups and point.cost <= groups[-1][0].cost * SAME:
            groups[-1].append(point)
        else:
            groups.append([point])
    step = 0.026 * math.log10(high / low)
    return {
        point: point.cost * 10.0 ** (step * (i - (len(group) - 1) / 2))
        for group in groups
        for i, point in enumerate(sorted(group, key=lambda p: -p.value))
    }


def cost_section(run: RunData) -> Markup:
    """Return the figures of score against latency and against size."""
    title = f"{run.score.title[:1].upper()}{run.score.title[1:]} against cost"
    return section("cost", title, cost_figures(list(run.arms.values()), run.score))


def cost_figures(arms: Sequence[ArmRow], score: ScoreFormat) -> Markup:
    """Return both figures, or notes about what is missing."""
    drawn = [_figure(arms, "milliseconds", "latency", "time", score), _figure(arms, "megabytes", "size", "size", score)]
    return tag("div", drawn, class_="grid-2")


def _figure(arms: Sequence[ArmRow], cost: CostName, title: str, what: str, score: ScoreFormat) -> Markup:
    points = cost_points(arms, cost)
    if len(points) < 2:
        return note(f"Against {title}: not drawn, because fewer than two models have a cost and a {score.title}.")
    unknown = [arm.name for arm in arms if arm.number(cost) is None]
    without = f" Not drawn, because the {what} is not known: {', '.join(unknown)}." if unknown else ""
    front = pareto_front(points, higher_is_better=score.higher_is_better)
    best = ", ".join(dict.fromkeys(point.name for point in front))
    caption = (
        f"{'Upper' if score.higher_is_better else 'Lower'} left is better; bars are ± one standard deviation over "
        f"seeds. On the Pareto front: {best}. Costs within 5 % of each other count as equal and are drawn side by "
        f"side.{without}"
    )
    return figure(f"Against {title}", lambda: draw_pareto(points, cost, score), caption)
