"""Calibration, and the confidence of the student compared with the teacher's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.metrics import Predictions, deviations, reliability
from limbeck.report import axes
from limbeck.report.axes import Axes
from limbeck.report.html import Markup, details, join, note, section, table, tag
from limbeck.report.run_data import ALONE, RunData, load_run, pooled_predictions
from limbeck.report.svg import figure

# --- reliability ----------------------------------------------------------------------------------------------------

JOINED = 0.005
"""Smallest share of the examples for a bin to be joined by the line; smaller bins are too noisy."""


class Bin(NamedTuple):
    """Predictions of similar confidence: mean confidence, accuracy, and share of all predictions."""

    confidence: float
    accuracy: float
    share: float


def reliability_bins(predictions: Predictions) -> list[Bin]:
    """Return the non-empty bins of a reliability diagram."""
    diagram = reliability(predictions)
    total = max(int(diagram.counts.sum()), 1)
    rows = zip(diagram.confidence.tolist(), diagram.accuracy.tolist(), diagram.counts.tolist(), strict=True)
    return [Bin(confidence, accuracy, count / total) for confidence, accuracy, count in rows if count]


def plot_reliability(run: RunData | str | Path, *, ax: Axes | None = None) -> Axes:
    """Plot accuracy against confidence for teacher, student alone and distilled student, all seeds together.

    On the diagonal, accuracy equals confidence. Marks are larger for bins with more examples.

    Raises:
        ValueError: If the run has no predictions of classes.
    """
    models = _models(load_run(run))
    if not models:
        raise ValueError("this run has no predictions of classes")
    ax = draw_reliability(models, ax=ax)
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 0.08), frameon=False)
    return ax


def _models(run: RunData) -> dict[str, tuple[int, list[Bin]]]:
    """Return name -> style and bins of the models in the diagram."""
    teacher = run.teacher_arm.name if run.teacher_arm else None
    names = dict.fromkeys(name for name in (teacher, ALONE, run.method_arm) if name in run.arms)
    pooled = {str(name): pooled_predictions(run, str(name)) for name in names}
    return {
        name: (run.arms[name].style, reliability_bins(predictions))
        for name, predictions in pooled.items()
        if predictions is not None
    }


def draw_reliability(models: Mapping[str, tuple[int, Sequence[Bin]]], *, ax: Axes | None = None) -> Axes:
    """Draw a reliability diagram of models: name -> style and non-empty bins."""
    ax = axes.new_axes(ax, height=380.0)
    ticks = [20 * i for i in range(6)]
    ax.set(xlim=(0, 100), ylim=(0, 100), xticks=ticks, yticks=ticks, ylabel="accuracy, %",
           xlabel="confidence: the largest probability, %")  # fmt: skip
    ax.plot([0, 100], [0, 100], "--", color=axes.QUIET, linewidth=1.0)
    ax.text(97, 4, "overconfident", ha="right", **axes.text_style(ax, axes.QUIET))
    ax.text(4, 92, "underconfident", **axes.text_style(ax, axes.QUIET))
    for name, (style, bins) in models.items():
        joined = [bin_ for bin_ in bins if bin_.share >= JOINED]
        # The marks of this line are for the legend only: those of the bins have sizes of their own.
        ax.plot([100 * b.confidence for b in joined], [100 * b.accuracy for b in joined], label=axes.shorten(name, 60),
                linewidth=2.0, **axes.mark(style, 8.0, markevery=[], linestyle="-"))  # fmt: skip
        for b in bins:
            size = 5.0 + 11.0 * b.share**0.5
            line = ax.plot([100 * b.confidence], [100 * b.accuracy], **axes.mark(style, size))
            axes.set_tip(line, f"{name}: confidence {100 * b.confidence:.1f} %, accuracy {100 * b.accuracy:.1f} %, "
                          f"{100 * b.share:.1f} % of the examples")  # fmt: skip
    summary = "; ".join(
        f"{name}: mean confidence {100 * sum(b.confidence * b.share for b in bins):.1f} %, "
        f"accuracy {100 * sum(b.accuracy * b.share for b in bins):.1f} %"
        for name, (_, bins) in models.items()
    )
    return axes.describe(ax, f"Reliability. {summary}.")


# --- deviation from the teacher -------------------------------------------------------------------------------------

_MOST = 700
"""Largest number of dots."""
_EDGE = 9.0
"""Log-odds beyond this are drawn at the edge: a probability that rounds to 1 has infinite log-odds."""
_TICKS = (0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)


def plot_deviation(run: RunData | str | Path, *, ax: Axes | None = None) -> Axes:
    """Plot the student's log-odds of the teacher's class against the teacher's, a dot for each test example.

    On the diagonal the confidences are equal. The line is the least-squares fit; a slope above 1 means that the student
    exaggerates the confidence of the teacher (Nagarajan et al., 2023, arXiv:2301.12923).

    Raises:
        ValueError: If the run has no predictions of both models with the same classes.
    """
    run = load_run(run)
    if run.student is None or run.teacher is None or run.labels is None:
        raise ValueError("this run has no predictions of teacher and student for the same classes")
    deviation = deviations(Predictions(run.student, run.teacher, run.labels))
    right = (deviation.classes == run.labels[deviation.rows]).tolist()
    fit = (deviation.slope, deviation.intercept) if math.isfinite(deviation.slope) else None
    ax = draw_deviation(deviation.teacher.tolist(), deviation.student.tolist(), right, fit=fit, ax=ax)
    ax.legend(loc="upper left", frameon=False)
    return ax


def draw_deviation(
    x: Sequence[float], y: Sequence[float], right: Sequence[bool], *, fit: tuple[float, float] | None,
    ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Draw log-odds of the student (y) against the teacher (x).

    Args:
        x: The teacher's log-odds ``log p / (1 - p)``, one for each example.
        y: The student's log-odds for the same class.
        right: Whether the teacher is correct.
        fit: Slope and intercept of the line.
        ax: Axes to draw on.
    """
    rows = range(0, len(x), max(1, -(-len(x) // _MOST)))
    across, along = ([min(max(values[i], -_EDGE), _EDGE) for i in rows] for values in (x, y))
    limits = (min([*across, *along, -1.0]) - 0.5, max([*across, *along, 3.0]) + 0.5)
    ax = axes.new_axes(ax, height=380.0, left=82.0)
    ticks = {math.log(p / (1 - p)): f"{100 * p:g}" for p in _TICKS}
    inside = [tick for tick in ticks if limits[0] <= tick <= limits[1]]
    labels = [ticks[tick] for tick in inside]
    ax.set_xticks(inside, labels)
    ax.set_yticks(inside, labels)
    ax.set(xlim=limits, ylim=limits, xlabel="teacher's probability, % (log-odds scale)",
           ylabel="student's probability, %")  # fmt: skip
    ax.plot(limits, limits, "--", color=axes.QUIET, linewidth=1.0)
    for name, which, properties in _DOTS:
        at = [i for i, row in enumerate(rows) if right[row] == which]
        ax.plot([across[i] for i in at], [along[i] for i in at], "o", label=name, **properties)
    if fit is not None and across:
        ends = (min(across), max(across))
        ax.plot(ends, [fit[0] * end + fit[1] for end in ends], color=axes.ink(ax), linewidth=2.0)
    summary = "no line fits" if fit is None else f"slope {fit[0]:.2f}"
    text = f"Student's against teacher's confidence in the teacher's class, {len(across)} examples; {summary}."
    return axes.describe(ax, text)


_DOTS: tuple[tuple[str, bool, dict[str, Any]], ...] = (
    ("teacher correct", True, {"color": axes.COLORS[0], "markersize": 5.2, "alpha": 0.42, "markeredgewidth": 0}),
    ("teacher wrong", False, {"color": axes.COLORS[2], "markersize": 5.2, "markerfacecolor": "none",
                              "markeredgewidth": 1.3}),
)  # fmt: skip


# --- section --------------------------------------------------------------------------------------------------------


def calibration_section(run: RunData) -> Markup:
    """Return the reliability diagram and the deviation from the teacher."""
    drawn = [part for part in (_reliability(run), _deviation(run)) if part is not None]
    content = tag("div", drawn, class_="grid-2") if drawn else note(
        "Not known: this needs predictions, which this run does not have.")  # fmt: skip
    return section("fidelity", "Calibration, and fidelity to the teacher", content)


def _reliability(run: RunData) -> Markup | None:
    models = _models(run)
    if not models:
        return None
    rows = [(name, f"{100 * b.confidence:.1f}", f"{100 * b.accuracy:.1f}", f"{100 * b.share:.1f}")
            for name, (_, bins) in models.items() for b in bins]  # fmt: skip
    gaps = "; ".join(f"{name} {100 * sum(b.share * abs(b.accuracy - b.confidence) for b in bins):.1f} %"
                     for name, (_, bins) in models.items())  # fmt: skip
    head = ("model", "confidence, %", "accuracy, %", "share of examples, %")
    return figure(
        "Reliability", lambda: draw_reliability(models),
        "On the diagonal, accuracy equals confidence. Marks are larger for bins with more examples. Lines join bins "
        f"with at least {100 * JOINED:g} % of the examples. Mean gap (ECE, 15 bins, all seeds together): {gaps}.",
        details("Numbers", table("Reliability, 15 bins of equal width", head, rows)),
    )  # fmt: skip


def _deviation(run: RunData) -> Markup | None:
    labels, teacher, student = run.labels, run.teacher, run.student
    if labels is None or teacher is None or run.shown_seed is None:
        return None
    if student is None:
        return note("The student has other classes than the teacher, so their confidences cannot be compared.")
    deviation = deviations(Predictions(student, teacher, labels))
    if not len(deviation.rows):
        return note("All probabilities of teacher and student round to 0 or 1, so there is no deviation to draw.")
    finite = math.isfinite(deviation.slope)
    line = f"Slope {deviation.slope:.2f}: {_describe_slope(deviation.slope)}. " if finite else ""
    caption = join(
        f"{run.shown_student}. Each dot is a test example, with the "
        f"confidence of teacher and student in the teacher's class. {line}"
        f"On the tenth of examples with the least confident teacher, the student is {_side(deviation.least_sure)}; on "
        f"the most confident tenth, {_side(deviation.most_sure)}. Reference: ",
        tag("cite", "Nagarajan et al., On student-teacher deviations in distillation, 2023"), ", arXiv:2301.12923.",
    )  # fmt: skip
    right = (deviation.classes == labels[deviation.rows]).tolist()
    fit = (deviation.slope, deviation.intercept) if finite else None
    return figure(
        "Deviation from the teacher",
        lambda: draw_deviation(deviation.teacher.tolist(), deviation.student.tolist(), right, fit=fit), caption,
    )  # fmt: skip


def _describe_slope(slope: float) -> str:
    if slope > 1.05:
        return "the student exaggerates the teacher's confidence"
    if slope < 0.95:
        return "the student is less confident than the teacher"
    return "the student has the teacher's confidence"


def _side(gap: float) -> str:
    return f"{'more confident' if gap > 0 else 'less confident'} by {abs(gap):.2f} in log-odds"
