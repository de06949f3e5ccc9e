"""Section with accuracy against cost."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.report.arms import ArmRow
from limbeck.report.figures import CostPoint, pareto_figure, pareto_front
from limbeck.report.html import figure, grid, legend, note, section
from limbeck.report.markup import Markup
from limbeck.report.numbers import sized
from limbeck.report.run_data import RunData


def cost_section(run: RunData, *, prefix: str = "") -> Markup:
    """Return the figures of accuracy against latency and against size."""
    return section(f"{prefix}cost", "Accuracy against cost", cost_figures(list(run.arms.values())))


def cost_figures(arms: Sequence[ArmRow]) -> Markup:
    """Return both figures, or notes about what is missing."""
    drawn = []
    for key, label in (
        ("milliseconds", "milliseconds per example, one CPU thread"),
        ("megabytes", "megabytes of weights"),
    ):
        points = [_point(arm, key) for arm in arms]
        measured = [point for point in points if point is not None]
        title = "Against latency" if key == "milliseconds" else "Against size"
        if len(measured) < 2:
            drawn.append(note(f"{title}: not drawn, because fewer than two models have a cost and an accuracy."))
            continue
        what = "time" if key == "milliseconds" else "size"
        unknown = [arm.name for arm in arms if arm.number(key) is None]
        without = f" Not drawn, because the {what} is not known: {', '.join(unknown)}." if unknown else ""
        best = ", ".join(dict.fromkeys(point.name for point in pareto_front(measured)))
        caption = (
            f"Upper left is better; bars are ± one standard deviation over seeds. On the Pareto front: {best}. "
            f"Costs within 5 % of each other count as equal and are drawn side by side.{without}"
        )
        drawn.append(figure(title, pareto_figure(measured, x_label=label, text=_tick), caption,
                            legend({p.name: p.style for p in measured}.items())))  # fmt: skip
    return grid(*drawn)


def _point(arm: ArmRow, key: str) -> CostPoint | None:
    cost, mean = arm.number(key), arm.accuracy.mean
    if cost is None or cost <= 0 or mean is None:
        return None
    return CostPoint(arm.name, arm.style, cost, mean, arm.accuracy.std)


def _tick(value: float) -> str:
    return f"{value:g}" if value < 1000 else sized(value)
