"""How did one term of the loss go while the arms trained?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from limbeck.report.arms import Arm
from limbeck.report.axes import Plot, Scale, around, frame, mark, svg
from limbeck.report.curves import Curve
from limbeck.report.markup import Markup

_WIDTH, _HEIGHT = 520.0, 280.0


def training_figure(term: str, arms: Mapping[str, Arm], curves: Mapping[str, Sequence[Curve]]) -> Markup:
    """One term against optimiser steps: a thin line for every seed, a thick one for each arm's mean.

    Args:
        term: The term's name.
        arms: The arms by name.
        curves: Arm -> one curve a seed.
    """
    every = [point for found in curves.values() for curve in found for point in curve]
    # The first steps may be far above all the rest; the scale is made for what comes after them.
    late = [v for found in curves.values() for curve in found for _, v in curve[len(curve) // 30 :]]
    low, high = around(late, least=1e-6, floor=0.0 if min(v for _, v in every) >= 0 else None)
    last = max(x for x, _ in every)
    plot = Plot(Scale(0, max(last, 1.0), 62, _WIDTH - 20), Scale(low, high, _HEIGHT - 58, 40))
    drawn = [
        (
            [_line(curve, plot, f"curve faint s{arms[name].style}") for curve in found if len(found) > 1],
            _line(_mean(found), plot, f"curve strong s{arms[name].style}"),
        )
        for name, found in curves.items()
    ]
    ends = [
        mark(arms[name].style, *plot.at(max(c[-1][0] for c in found), _end(found)), size=5.0,
             title=f"{name}: {_end(found):.4g} at the end")
        for name, found in curves.items()
    ]  # fmt: skip
    said = "; ".join(f"{name} ends at {_end(found):.3g}" for name, found in curves.items())
    return svg(
        frame(plot, x_label="optimiser steps", y_label="mean of the term", x_text=lambda v: f"{v:,.0f}",
              y_text=lambda v: f"{v:g}"),
        drawn, ends, width=_WIDTH, height=_HEIGHT, label=f"The term {term} while training. {said}.",
    )  # fmt: skip


def _line(curve: Curve, plot: Plot, class_: str) -> Markup:
    return plot.line([(x, min(v, plot.y.high)) for x, v in curve], class_=class_)


def _mean(found: Sequence[Curve]) -> Curve:
    """The mean over seeds, as far as all of them go."""
    steps = zip(*found, strict=False)
    return [(sum(x for x, _ in at) / len(at), sum(v for _, v in at) / len(at)) for at in steps]


def _end(found: Sequence[Curve]) -> float:
    return sum(curve[-1][1] for curve in found) / len(found)
