"""Section with calibration, and confidence compared with the teacher's."""

from __future__ import annotations

import math

from limbeck.metrics import Predictions, deviations
from limbeck.report.figures import deviation_figure, reliability_figure
from limbeck.report.figures.fidelity import JOINED, dot
from limbeck.report.html import details, figure, grid, legend, note, section, table
from limbeck.report.markup import Markup, join, tag
from limbeck.report.predictions import pooled_predictions, reliability_bins
from limbeck.report.run_data import ALONE, RunData


def fidelity_section(run: RunData, *, prefix: str = "") -> Markup:
    """Return the reliability diagram and the deviation from the teacher."""
    drawn = [drawing for drawing in (_reliability(run), _deviation(run)) if drawing is not None]
    title = "Calibration, and fidelity to the teacher"
    if not drawn:
        return section(
            f"{prefix}fidelity", title, note("Not known: this needs predictions, which this run does not have.")
        )
    return section(f"{prefix}fidelity", title, grid(*drawn))


def _reliability(run: RunData) -> Markup | None:
    teacher = next((arm.name for arm in run.arms.values() if arm.role == "teacher"), None)
    models = {}
    for name in (teacher, ALONE, run.method_arm):
        if name is None or name not in run.arms:
            continue
        predictions = pooled_predictions(run, name)
        if predictions is not None:
            models[name] = (run.arms[name].style, reliability_bins(predictions))
    if not models:
        return None
    rows = [(name, f"{100 * b.confidence:.1f}", f"{100 * b.accuracy:.1f}", f"{100 * b.share:.1f}")
            for name, (_, bins) in models.items() for b in bins]  # fmt: skip
    gaps = "; ".join(f"{name} {100 * sum(b.share * abs(b.accuracy - b.confidence) for b in bins):.1f} %"
                     for name, (_, bins) in models.items())  # fmt: skip
    return figure(
        "Reliability", reliability_figure(models),
        "On the diagonal, accuracy equals confidence. Marks are larger for bins with more examples. Lines join bins "
        f"with at least {100 * JOINED:g} % of the examples, and the bars show their share. Mean gap (ECE, 15 bins, all "
        f"seeds together): {gaps}.",
        legend((name, style) for name, (style, _) in models.items()),
        details("Numbers", table("Reliability, 15 bins of equal width",
                                    ("model", "confidence, %", "accuracy, %", "share of examples, %"), rows)),
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
    right = (deviation.classes == labels[deviation.rows]).tolist()
    finite = math.isfinite(deviation.slope)
    fit = (deviation.slope, deviation.intercept) if finite else None
    drawing = deviation_figure(deviation.teacher.tolist(), deviation.student.tolist(), right, line=fit)
    line = f"Slope {deviation.slope:.2f}: {_slope(deviation.slope)}. " if finite else ""
    caption = join(
        f"{run.shown_student}. Each dot is a test example, with the "
        f"confidence of teacher and student in the teacher's class. {line}"
        f"On the tenth of examples with the least confident teacher, the student is {_side(deviation.least_sure)}; on "
        f"the most confident tenth, {_side(deviation.most_sure)}. Reference: ",
        tag("cite", "Nagarajan et al., On student-teacher deviations in distillation, 2023"), ", arXiv:2301.12923.",
    )  # fmt: skip
    dots = legend([("teacher correct", dot(8.0, 8.0, right=True)), ("teacher wrong", dot(8.0, 8.0, right=False))])
    return figure("Deviation from the teacher", drawing, caption, dots)


def _slope(slope: float) -> str:
    if slope > 1.05:
        return "the student exaggerates the teacher's confidence"
    if slope < 0.95:
        return "the student is less confident than the teacher"
    return "the student has the teacher's confidence"


def _side(gap: float) -> str:
    return f"{'more confident' if gap > 0 else 'less confident'} by {abs(gap):.2f} in log-odds"
