"""Classes that gain and lose, and confusions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from limbeck.report.figures import ClassRow, change_figure, classes_figure, confusion_figure
from limbeck.report.figures.classes import MOST, Matrix, top_confusions
from limbeck.report.html import details, figure, grid, legend, note, section, table
from limbeck.report.markup import Markup
from limbeck.report.predictions import FALSE_DISCOVERIES, rates_of
from limbeck.report.row_layout import both
from limbeck.report.run_data import ALONE, RunData


def classes_section(evidence: RunData, classes: Sequence[ClassRow], *, prefix: str = "") -> Markup:
    """Per-class changes, then confusion before and after."""
    judged = evidence.judged
    if not classes or judged is None:
        why = "Not known: it needs the predictions of the student alone and of the distilled one."
        return section(f"{prefix}classes", "Class by class", note(why))
    return section(
        f"{prefix}classes", "Class by class", _changes(evidence, classes, judged), _confusion(evidence, judged)
    )


def _changes(evidence: RunData, classes: Sequence[ClassRow], judged: str) -> Markup:
    before, after = evidence.arms[ALONE], evidence.arms[judged]
    drawing = both(classes_figure, classes, before=before.style, after=after.style)
    cut = f" The {MOST // 2} that lose and gain most of {len(classes)}." if len(classes) > MOST else ""
    caption = (
        f"From the {ALONE} (small mark) to {judged} (large), in points, of so many test examples.{cut} A star: more "
        f"than chance, with at most {100 * FALSE_DISCOVERIES:g} % false calls expected among all stars (exact test "
        "of won and lost examples and, over seeds, a paired t test; Benjamini and Hochberg)."
    )
    rows = [
        (row.name, row.examples, f"{100 * row.before:.2f}", f"{100 * row.after:.2f}", f"{100 * row.change:+.2f}",
         f"{row.p_value:.3g}", f"{row.adjusted:.3g}", "yes" if row.sure else "no")
        for row in sorted(classes, key=lambda row: row.change)
    ]  # fmt: skip
    head = ("class", "test examples", f"{ALONE}, %", f"{judged}, %", "change", "p", "adjusted p", "sure")
    numbers = details(f"All {len(classes)} classes", table("Accuracy of each class", head, rows))
    arms = legend([(ALONE, before.style), (judged, after.style)])
    return figure("What each class gains or loses", drawing, caption, arms, numbers, wide=True)


def _confusion(evidence: RunData, judged: str) -> Markup | None:
    before, after = rates_of(evidence, ALONE), rates_of(evidence, judged)
    if before is None or after is None or before.shape != after.shape:
        return None
    names = [*evidence.classes, *(str(i) for i in range(len(evidence.classes), len(before)))]
    top = max(_highest(before), _highest(after))
    change = after - before
    pairs = top_confusions(np.abs(change), 12)
    rows = [(names[i], names[j], f"{100 * before[i, j]:.2f}", f"{100 * after[i, j]:.2f}", f"{100 * change[i, j]:+.2f}")
            for i, j in pairs]  # fmt: skip
    listed = table("The pairs of classes that changed most, % of the true class",
                   ("true class", "taken for", ALONE, judged, "change"), rows, words=2) if rows else None  # fmt: skip
    shares = "Numbers are percent of the true class (row), over all seeds; errors are shaded, on one scale for both."
    return grid(
        figure(f"Confusion before: {ALONE}", confusion_figure(before, names, top=top, who=ALONE), shares),
        figure(f"Confusion after: {judged}", confusion_figure(after, names, top=top, who=judged), shares),
        figure("What changed", change_figure(change, names, top=_highest(np.abs(change))),
               "After less before, in points. Orange: worse (more errors, or fewer right); blue: better."),
        listed,
    )  # fmt: skip


def _highest(rates: Matrix) -> float:
    errors = rates.copy()
    np.fill_diagonal(errors, 0.0)
    return float(errors.max())
