"""Section with accuracy changes of classes, and confusions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from limbeck.report.figures import ClassRow, change_figure, classes_figure, confusion_figure
from limbeck.report.figures.classes import MOST, Matrix, top_confusions
from limbeck.report.html import details, figure, grid, legend, note, section, table
from limbeck.report.markup import Markup
from limbeck.report.predictions import FALSE_DISCOVERIES, confusion_rates
from limbeck.report.row_layout import wide_and_narrow
from limbeck.report.run_data import ALONE, RunData


def classes_section(run: RunData, classes: Sequence[ClassRow], *, prefix: str = "") -> Markup:
    """Return the per-class changes, then the confusion before and after."""
    method_arm = run.method_arm
    if not classes or method_arm is None:
        why = "Not known: this needs the predictions of the student alone and of the distilled student."
        return section(f"{prefix}classes", "Class by class", note(why))
    return section(
        f"{prefix}classes", "Class by class", _changes(run, classes, method_arm), _confusion(run, method_arm)
    )


def _changes(run: RunData, classes: Sequence[ClassRow], method_arm: str) -> Markup:
    before, after = run.arms[ALONE], run.arms[method_arm]
    drawing = wide_and_narrow(classes_figure, classes, before=before.style, after=after.style)
    cut = (
        f" Of {len(classes)} classes, the {MOST // 2} with the largest losses and gains." if len(classes) > MOST else ""
    )
    caption = (
        f"From the {ALONE} (small mark) to {method_arm} (large mark), in percentage points, with the number of test "
        f"examples.{cut} A star marks a significant change (false-discovery rate {100 * FALSE_DISCOVERIES:g} %: exact "
        "test of won and lost examples and, over seeds, a paired t test; Benjamini and Hochberg)."
    )
    rows = [
        (row.name, row.examples, f"{100 * row.before:.2f}", f"{100 * row.after:.2f}", f"{100 * row.change:+.2f}",
         f"{row.p_value:.3g}", f"{row.adjusted:.3g}", "yes" if row.sure else "no")
        for row in sorted(classes, key=lambda row: row.change)
    ]  # fmt: skip
    head = ("class", "test examples", f"{ALONE}, %", f"{method_arm}, %", "change", "p", "adjusted p", "significant")
    numbers = details(f"All {len(classes)} classes", table("Accuracy of each class", head, rows))
    arms = legend([(ALONE, before.style), (method_arm, after.style)])
    return figure("Accuracy of each class before and after", drawing, caption, arms, numbers, wide=True)


def _confusion(run: RunData, method_arm: str) -> Markup | None:
    before, after = confusion_rates(run, ALONE), confusion_rates(run, method_arm)
    if before is None or after is None or before.shape != after.shape:
        return None
    names = [*run.classes, *(str(i) for i in range(len(run.classes), len(before)))]
    top = max(_highest(before), _highest(after))
    change = after - before
    pairs = top_confusions(np.abs(change), 12)
    rows = [(names[i], names[j], f"{100 * before[i, j]:.2f}", f"{100 * after[i, j]:.2f}", f"{100 * change[i, j]:+.2f}")
            for i, j in pairs]  # fmt: skip
    head = ("true class", "predicted class", ALONE, method_arm, "change")
    caption = "The pairs of classes that changed most, % of the true class"
    largest = table(caption, head, rows, words=2) if rows else None
    shares = "Percent of the true class (row), over all seeds. Errors are shaded, on the same scale in both figures."
    return grid(
        figure(f"Confusion before: {ALONE}", confusion_figure(before, names, top=top, who=ALONE), shares),
        figure(f"Confusion after: {method_arm}", confusion_figure(after, names, top=top, who=method_arm), shares),
        figure("What changed", change_figure(change, names, top=_highest(np.abs(change))),
               "After minus before, in percentage points. Orange: worse (more errors); blue: better."),
        largest,
    )  # fmt: skip


def _highest(rates: Matrix) -> float:
    errors = rates.copy()
    np.fill_diagonal(errors, 0.0)
    return float(errors.max())
