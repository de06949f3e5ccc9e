"""How far did a search for settings bring each arm, trial by trial?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from limbeck.report.axes import Plot, Scale, around, frame, mark, svg
from limbeck.report.far import far_off
from limbeck.report.markup import Markup, join, tag
from limbeck.report.rows import WIDE, Layout


class Searched(NamedTuple):
    """An arm's trials on development data: its style, each trial's accuracy, the best so far, which was the best."""

    style: int
    accuracies: Sequence[float]
    best_so_far: Sequence[float]
    found: int


_NARROWEST, _HEIGHT, _ASIDE = 520.0, 330.0, 5.0


def search_figure(arms: Mapping[str, Searched], *, luck: float, layout: Layout = WIDE) -> Markup:
    """The best accuracy so far against trials, a line for each arm; small marks are the trials themselves.

    Args:
        arms: The arms by name, each with at least one trial.
        luck: By how much two accuracies on so many examples may differ without a cause; what is so near the best of
            all lies in a band.
        layout: For which kind of window.
    """
    width = max(layout.width, _NARROWEST)
    plot = _plot(arms, width)
    top = max(100 * arm.best_so_far[-1] for arm in arms.values())
    upper, lower = plot.y(top), min(plot.y(top - 100 * luck), plot.y.start)
    band = (
        tag("rect", x=plot.x.start, width=plot.x.end - plot.x.start, y=upper, height=max(lower - upper, 0.0),
            class_="luck"),
        tag("text", "within luck of the best", x=plot.x.start + 6, y=upper + 15, class_="axis"),
    )  # fmt: skip
    said = "; ".join(
        f"{name} from {100 * arm.accuracies[0]:.2f} % to {100 * arm.best_so_far[-1]:.2f} %, found in trial "
        f"{arm.found + 1} of {len(arm.accuracies)}" for name, arm in arms.items()
    )  # fmt: skip
    return svg(
        frame(plot, x_label="trials of each arm", y_label="best accuracy so far on development data, %",
              x_text=lambda v: f"{v:g}", y_text=lambda v: f"{v:g}"),
        band, [_arm(name, arm, plot, _ASIDE * (i - (len(arms) - 1) / 2)) for i, (name, arm) in enumerate(arms.items())],
        width=width, height=_HEIGHT, class_=layout.class_, label=f"Best accuracy so far on development data. {said}.",
    )  # fmt: skip


def _plot(arms: Mapping[str, Searched], width: float) -> Plot:
    """Made for the lines, but for where one begins far below what all reach; single trials may lie beneath it."""
    most = max(len(arm.accuracies) for arm in arms.values())
    values = sorted({100 * value for arm in arms.values() for value in arm.best_so_far})
    ends = {100 * arm.best_so_far[-1] for arm in arms.values()}
    far = far_off([(v, v) for v in values], least=1.0, kept=[i for i, v in enumerate(values) if v in ends])
    near = [value for place, value in enumerate(values) if place not in far]
    x = Scale(0.5, most + 0.5, 62.0, width - 24, named=_numbers(most))
    return Plot(x, Scale(*around(near, least=2.0, floor=0.0, ceiling=100.0, margin=0.12), _HEIGHT - 58, 40.0))


def _numbers(most: int) -> tuple[float, ...]:
    """The trials that have a number beneath them: all of a few, else every fifth, tenth, ..."""
    step = next(step for step in (1, 5, 10, 25, 50, 100, most) if most <= 12 * step)
    return tuple(float(number) for number in range(step, most + 1, step))


def _arm(name: str, arm: Searched, plot: Plot, aside: float) -> Markup:
    """Its line and its marks, these a little aside, so that arms that are as good can be told apart."""
    trials = [
        mark(arm.style, plot.x(i + 1) + aside, plot.y(100 * v), size=2.6, class_="seed",
             title=f"{name}, trial {i + 1}: {100 * v:.2f} %")
        for i, v in enumerate(arm.accuracies) if plot.y.low <= 100 * v <= plot.y.high
    ]  # fmt: skip
    stairs = [(0.5 + i + end, 100 * v) for i, v in enumerate(arm.best_so_far) for end in (0, 1)]
    held = [(x, max(v, plot.y.low)) for x, v in stairs]
    best = 100 * arm.accuracies[arm.found]
    chosen = mark(arm.style, plot.x(arm.found + 1) + aside, plot.y(best), size=6.0, class_="mark best",
                  title=f"{name}: {best:.2f} % in trial {arm.found + 1}")  # fmt: skip
    return join(plot.line(held, class_=f"curve strong s{arm.style}"), trials, chosen)


def trials_below(arms: Mapping[str, Searched]) -> tuple[int, float]:
    """How many trials lie below the figure, and the lowest of all, in percent."""
    low = _plot(arms, _NARROWEST).y.low
    every = [100 * value for arm in arms.values() for value in arm.accuracies]
    return sum(value < low for value in every), min(every)
