"""Calibration, and confidence beside the teacher's."""

from __future__ import annotations

import math

from limbeck.metrics import Predictions, deviations
from limbeck.report.figures import deviation_figure, reliability_figure
from limbeck.report.figures.fidelity import JOINED, dot
from limbeck.report.html import details, figure, grid, legend, note, section, table
from limbeck.report.markup import Markup, join, tag
from limbeck.report.predictions import bins_of, pooled
from limbeck.report.run_data import ALONE, RunData


def fidelity_section(evidence: RunData, *, prefix: str = "") -> Markup:
    """The reliability diagram and the deviation from the teacher."""
    drawn = [drawing for drawing in (_reliability(evidence), _deviation(evidence)) if drawing is not None]
    title = "Calibration, and fidelity to the teacher"
    if not drawn:
        return section(f"{prefix}fidelity", title, note("Not known: this run kept no predictions to tell it by."))
    return section(f"{prefix}fidelity", title, grid(*drawn))


def _reliability(evidence: RunData) -> Markup | None:
    teacher = next((arm.name for arm in evidence.arms.values() if arm.role == "teacher"), None)
    models = {}
    for name in (teacher, ALONE, evidence.judged):
        if name is None or name not in evidence.arms:
            continue
        predictions = pooled(evidence, name)
        if predictions is not None:
            models[name] = (evidence.arms[name].style, bins_of(predictions))
    if not models:
        return None
    rows = [(name, f"{100 * b.confidence:.1f}", f"{100 * b.accuracy:.1f}", f"{100 * b.share:.1f}")
            for name, (_, bins) in models.items() for b in bins]  # fmt: skip
    gaps = "; ".join(f"{name} {100 * sum(b.share * abs(b.accuracy - b.confidence) for b in bins):.1f} %"
                     for name, (_, bins) in models.items())  # fmt: skip
    return figure(
        "Reliability", reliability_figure(models),
        "On the diagonal a model is right as often as it says. Marks are larger where there are more examples; lines "
        f"join those of at least {100 * JOINED:g} % of all, and the bars count them. Mean gap (ECE, 15 bins, all seeds "
        f"together): {gaps}.",
        legend((name, style) for name, (style, _) in models.items()),
        details("The numbers", table("Reliability, 15 bins of equal width",
                                    ("model", "confidence, %", "accuracy, %", "share of examples, %"), rows)),
    )  # fmt: skip


def _deviation(evidence: RunData) -> Markup | None:
    labels, teacher, student = evidence.labels, evidence.teacher, evidence.student
    if labels is None or teacher is None or evidence.shown_seed is None:
        return None
    if student is None:
        return note("The student has other classes than the teacher, so their confidences cannot be set side by side.")
    found = deviations(Predictions(student, teacher, labels))
    if not len(found.rows):
        return note("Teacher and student are endlessly sure everywhere, so nothing deviates that could be drawn.")
    right = (found.classes == labels[found.rows]).tolist()
    known = math.isfinite(found.slope)
    fitted = (found.slope, found.intercept) if known else None
    drawing = deviation_figure(found.teacher.tolist(), found.student.tolist(), right, line=fitted)
    line = f"Slope {found.slope:.2f}: {_slope(found.slope)}. " if known else ""
    caption = join(
        f"{evidence.shown_student}. Each dot is a test example: how sure "
        f"teacher and student are of the teacher's class. {line}"
        f"Where the teacher is least sure (a tenth), the student is {_side(found.least_sure)}; where it is surest, "
        f"{_side(found.most_sure)}. After ",
        tag("cite", "Nagarajan et al., On student-teacher deviations in distillation, 2023"), ", arXiv:2301.12923.",
    )  # fmt: skip
    dots = legend(
        [("the teacher is right", dot(8.0, 8.0, right=True)), ("the teacher is wrong", dot(8.0, 8.0, right=False))]
    )
    return figure("Deviation from the teacher", drawing, caption, dots)


def _slope(slope: float) -> str:
    if slope > 1.05:
        return "the student exaggerates the teacher's confidence"
    if slope < 0.95:
        return "the student plays the teacher's confidence down"
    return "the student takes over the teacher's confidence"


def _side(gap: float) -> str:
    return f"{'surer' if gap > 0 else 'less sure'} by {abs(gap):.2f} in log-odds"
