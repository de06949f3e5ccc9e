"""Figures of training curves and of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from limbeck.report.arms import ArmRow
from limbeck.report.axes import AxisScale, Plot, frame, mark, outliers, padded_limits, svg
from limbeck.report.curves import Curve
from limbeck.report.markup import Markup, join, tag
from limbeck.report.row_layout import WIDE, Layout

_WIDTH, _HEIGHT = 520.0, 280.0


def training_figure(term: str, arms: Mapping[str, ArmRow], curves: Mapping[str, Sequence[Curve]]) -> Markup:
    """Plot one term against optimizer steps: a thin line for every seed, a thick one for each arm's mean.

    Args:
        term: The term's name.
        arms: The arms by name.
        curves: Arm -> one curve a seed.
    """
    every = [point for seeds in curves.values() for curve in seeds for point in curve]
    # The first steps may be far above the rest, so they do not determine the scale.
    late = [v for seeds in curves.values() for curve in seeds for _, v in curve[len(curve) // 30 :]]
    low, high = padded_limits(late, least=1e-6, floor=0.0 if min(v for _, v in every) >= 0 else None)
    last = max(x for x, _ in every)
    plot = Plot(AxisScale(0, max(last, 1.0), 62, _WIDTH - 20), AxisScale(low, high, _HEIGHT - 58, 40))
    drawn = [
        (
            [_line(curve, plot, f"curve faint s{arms[name].style}") for curve in seeds if len(seeds) > 1],
            _line(_mean(seeds), plot, f"curve strong s{arms[name].style}"),
        )
        for name, seeds in curves.items()
    ]
    ends = [
        mark(arms[name].style, *plot.at(max(c[-1][0] for c in seeds), _end(seeds)), size=5.0,
             title=f"{name}: {_end(seeds):.4g} at the end")
        for name, seeds in curves.items()
    ]  # fmt: skip
    summary = "; ".join(f"{name} ends at {_end(seeds):.3g}" for name, seeds in curves.items())
    return svg(
        frame(plot, x_label="optimizer steps", y_label="mean of the term", x_text=lambda v: f"{v:,.0f}",
              y_text=lambda v: f"{v:g}"),
        drawn, ends, width=_WIDTH, height=_HEIGHT, label=f"The term {term} while training. {summary}.",
    )  # fmt: skip


def _line(curve: Curve, plot: Plot, class_: str) -> Markup:
    return plot.line([(x, min(v, plot.y.high)) for x, v in curve], class_=class_)


def _mean(curves: Sequence[Curve]) -> Curve:
    """Return the mean over seeds, up to the end of the shortest curve."""
    steps = zip(*curves, strict=False)
    return [(sum(x for x, _ in at) / len(at), sum(v for _, v in at) / len(at)) for at in steps]


def _end(curves: Sequence[Curve]) -> float:
    return sum(curve[-1][1] for curve in curves) / len(curves)


class SearchedArm(NamedTuple):
    """An arm's trials on development data: style, accuracies, best accuracy so far, and index of the best trial."""

    style: int
    accuracies: Sequence[float]
    best_so_far: Sequence[float]
    best_trial: int


_NARROWEST, _HEIGHT, _ASIDE = 520.0, 330.0, 5.0


def search_figure(arms: Mapping[str, SearchedArm], *, luck: float, layout: Layout = WIDE) -> Markup:
    """Plot the best accuracy so far against trials, a line for each arm, with small marks for the trials.

    Args:
        arms: The arms by name, each with at least one trial.
        luck: How far two accuracies may differ by chance; a band marks this distance from the best.
        layout: The window width to draw for.
    """
    width = max(layout.width, _NARROWEST)
    plot = _plot(arms, width)
    top = max(100 * arm.best_so_far[-1] for arm in arms.values())
    upper, lower = plot.y(top), min(plot.y(top - 100 * luck), plot.y.start)
    band = (
        tag("rect", x=plot.x.start, width=plot.x.end - plot.x.start, y=upper, height=max(lower - upper, 0.0),
            class_="luck"),
        tag("text", "within chance of the best", x=plot.x.start + 6, y=upper + 15, class_="axis"),
    )  # fmt: skip
    summary = "; ".join(
        f"{name} from {100 * arm.accuracies[0]:.2f} % to {100 * arm.best_so_far[-1]:.2f} %, reached in trial "
        f"{arm.best_trial + 1} of {len(arm.accuracies)}" for name, arm in arms.items()
    )  # fmt: skip
    return svg(
        frame(plot, x_label="trials of each arm", y_label="best accuracy so far on development data, %",
              x_text=lambda v: f"{v:g}", y_text=lambda v: f"{v:g}"),
        band, [_arm(name, arm, plot, _ASIDE * (i - (len(arms) - 1) / 2)) for i, (name, arm) in enumerate(arms.items())],
        width=width, height=_HEIGHT, class_=layout.class_,
        label=f"Best accuracy so far on development data. {summary}.",
    )  # fmt: skip


def _plot(arms: Mapping[str, SearchedArm], width: float) -> Plot:
    """Return scales that fit the lines but not outliers at their start; single trials may lie below."""
    most = max(len(arm.accuracies) for arm in arms.values())
    values = sorted({100 * value for arm in arms.values() for value in arm.best_so_far})
    ends = {100 * arm.best_so_far[-1] for arm in arms.values()}
    far = outliers([(v, v) for v in values], least=1.0, pinned=[i for i, v in enumerate(values) if v in ends])
    near = [value for index, value in enumerate(values) if index not in far]
    x = AxisScale(0.5, most + 0.5, 62.0, width - 24, named=_numbers(most))
    return Plot(
        x, AxisScale(*padded_limits(near, least=2.0, floor=0.0, ceiling=100.0, margin=0.12), _HEIGHT - 58, 40.0)
    )


def _numbers(most: int) -> tuple[float, ...]:
    """Return the trials that are labeled: all if there are few, else every fifth, tenth, ..."""
    step = next(step for step in (1, 5, 10, 25, 50, 100, most) if most <= 12 * step)
    return tuple(float(number) for number in range(step, most + 1, step))


def _arm(name: str, arm: SearchedArm, plot: Plot, aside: float) -> Markup:
    """Draw the line and the marks of an arm. Marks are shifted a little, so that equal arms do not overlap."""
    trials = [
        mark(arm.style, plot.x(i + 1) + aside, plot.y(100 * v), size=2.6, class_="seed",
             title=f"{name}, trial {i + 1}: {100 * v:.2f} %")
        for i, v in enumerate(arm.accuracies) if plot.y.low <= 100 * v <= plot.y.high
    ]  # fmt: skip
    stairs = [(0.5 + i + end, 100 * v) for i, v in enumerate(arm.best_so_far) for end in (0, 1)]
    clipped = [(x, max(v, plot.y.low)) for x, v in stairs]
    best = 100 * arm.accuracies[arm.best_trial]
    chosen = mark(arm.style, plot.x(arm.best_trial + 1) + aside, plot.y(best), size=6.0, class_="mark best",
                  title=f"{name}: {best:.2f} % in trial {arm.best_trial + 1}")  # fmt: skip
    return join(plot.line(clipped, class_=f"curve strong s{arm.style}"), trials, chosen)


def trials_below(arms: Mapping[str, SearchedArm]) -> tuple[int, float]:
    """Return the number of trials below the figure, and the lowest accuracy of all, in percent."""
    low = _plot(arms, _NARROWEST).y.low
    every = [100 * value for arm in arms.values() for value in arm.accuracies]
    return sum(value < low for value in every), min(every)
