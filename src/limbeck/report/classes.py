"""Class by class: gains and losses of accuracy, and confusions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from limbeck.metrics import Predictions, class_changes, confusion_matrix
from limbeck.report import axes
from limbeck.report.axes import Axes
from limbeck.report.html import Markup, details, note, section, table, tag
from limbeck.report.run_data import ALONE, RunData, load_run, pooled_predictions
from limbeck.report.svg import figure

FALSE_DISCOVERIES = 0.05
"""Expected share of false positives among the classes that are marked as changed."""
MOST = 24
"""Largest number of classes in the figure: those with the largest changes. The table has all."""

Matrix = Float[np.ndarray, "classes classes"]


class ClassRow(NamedTuple):
    """A class: accuracy before and after (fractions), number of test examples, and significance of the change."""

    name: str
    before: float
    after: float
    examples: int
    sure: bool
    p_value: float
    adjusted: float

    @property
    def change(self) -> float:
        """Accuracy after minus accuracy before."""
        return self.after - self.before


def class_rows(run: RunData, before: str, after: str) -> list[ClassRow]:
    """Compare the accuracy of each class between two arms, over the seeds of both; empty if an arm has none."""
    if before == after:  # a run with controls alone
        return []
    ours, theirs, labels = run.logits.get(before, {}), run.logits.get(after, {}), run.labels
    # Only seeds of both arms count, because the tests are paired by seed.
    pairs = sorted(seed for seed in ours if seed in theirs and ours[seed].shape == theirs[seed].shape)
    if labels is None or not pairs:
        return []
    first, second = ([Predictions(arm[seed], None, labels) for seed in pairs] for arm in (ours, theirs))
    changes = class_changes(first, second, rate=FALSE_DISCOVERIES)
    return [
        ClassRow(name, change.before, change.after, change.examples, change.changed, change.p_value, change.adjusted)
        for name, change in zip(_names(run, first[0].student.shape[1]), changes, strict=False)
        if change.examples
    ]


def _names(run: RunData, count: int) -> list[str]:
    return [*run.classes, *(str(i) for i in range(len(run.classes), count))]


def confusion_rates(run: RunData, arm: str) -> Matrix | None:
    """Return the confusion matrix of an arm over all seeds, each row divided by its sum."""
    predictions = pooled_predictions(run, arm)
    if predictions is None:
        return None
    counts = confusion_matrix(predictions).numpy().astype(np.float64)
    return np.asarray(counts / np.maximum(counts.sum(1, keepdims=True), 1.0))


def select_rows(rows: Sequence[ClassRow]) -> list[ClassRow]:
    """Return the classes to draw, from the largest loss to the largest gain."""
    ordered = sorted(rows, key=lambda row: row.change)
    return ordered if len(ordered) <= MOST else [*ordered[: MOST // 2], *ordered[-MOST // 2 :]]


# --- figures --------------------------------------------------------------------------------------------------------


def plot_class_changes(run: RunData | str | Path, *, ax: Axes | None = None) -> Axes:
    """Plot the accuracy of each class, from the student alone to the distilled student, the largest loss on top.

    Numbers are changes in percentage points; a star marks a change beyond chance.

    Raises:
        ValueError: If the run has no predictions of classes.
    """
    run = load_run(run)
    after = str(run.method_arm)
    rows = class_rows(run, ALONE, after)
    if not rows:
        raise ValueError("this run has no predictions of classes before and after")
    ax = draw_class_changes(rows, (ALONE, run.style(ALONE)), (after, run.style(after)), ax=ax)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, ncols=2, frameon=False)
    return ax


def draw_class_changes(
    rows: Sequence[ClassRow], before: tuple[str, int], after: tuple[str, int], *, ax: Axes | None = None
) -> Axes:
    """Draw the accuracy of each class before and after; `before` and `after` are name and style of the arms."""
    rows = select_rows(rows)
    values = [f"{100 * row.change:+.1f}{' *' if row.sure else ''}   of {row.examples:,}" for row in rows]
    ax = axes.row_axes(ax, [row.name for row in rows], values, top=26.0, row=34.0)
    ends = [100 * value for row in rows for value in (row.before, row.after)]
    ax.set(xlim=axes.padded_limits(ends, least=2.0, floor=0.0, ceiling=100.0), xlabel="test accuracy, %")
    axes.round_ticks(ax.xaxis)
    heights = list(range(len(rows)))
    ax.hlines(heights, [100 * row.before for row in rows], [100 * row.after for row in rows], linewidth=2.5,
              colors=[axes.WORSE if row.change < 0 else axes.BETTER for row in rows])  # fmt: skip
    for (name, style), size, fractions in (
        (before, 7.0, [row.before for row in rows]), (after, 10.0, [row.after for row in rows])
    ):  # fmt: skip
        line = ax.plot(
            [100 * value for value in fractions], heights, label=axes.shorten(name, 60), **axes.mark(style, size)
        )
        axes.set_tip(line, name)
    sure = [f"{row.name} {100 * row.change:+.1f}" for row in rows if row.sure]
    summary = f"significant: {', '.join(sure)}" if sure else "no change is significant"
    return axes.describe(ax, f"Accuracy of each class before and after; {summary}.")


def plot_confusion(run: RunData | str | Path, arm: str | None = None, *, ax: Axes | None = None) -> Axes:
    """Plot the confusion matrix of an arm over all seeds: percent of each true class (row). Errors are shaded.

    Args:
        run: The folder of a finished run, or what `read_run` returns.
        arm: The arm; by default that of the verdict.
        ax: Axes to draw on; by default those of a new figure.

    Raises:
        ValueError: If the run has no predictions of this arm.
    """
    run = load_run(run)
    name = str(run.method_arm if arm is None else arm)
    rates = confusion_rates(run, name) if name in run.arms else None
    if rates is None:
        known = ", ".join(run.logits) or "no arm"
        raise ValueError(f"this run has no predictions of {name!r}; it has those of {known}")
    return draw_confusion(rates, _names(run, len(rates)), highest=highest_error(rates), arm=name, ax=ax)


def draw_confusion(rates: Matrix, names: Sequence[str], *, highest: float, arm: str, ax: Axes | None = None) -> Axes:
    """Draw a confusion matrix whose rows sum to 1; a rate of `highest` has full shading."""
    shades = np.minimum(_errors(rates) / highest, 1.0) if highest > 0 else np.zeros_like(rates)
    most = top_confusions(rates, 3)
    summary = ", ".join(f"{names[i]} predicted as {names[j]} {100 * rates[i, j]:.1f} %" for i, j in most)
    ax = _draw_matrix(ax, names, shades, np.ones_like(rates, dtype=bool), rates, "{:.0f}")
    return axes.describe(ax, f"Confusion of {arm}. Most often: {summary or 'nothing'}.")


def draw_confusion_change(change: Matrix, names: Sequence[str], *, highest: float, ax: Axes | None = None) -> Axes:
    """Draw the change of a confusion matrix: worse in one color, better in the other."""
    shades = np.minimum(np.abs(change) / highest, 1.0) if highest > 0 else np.zeros_like(change)
    most = top_confusions(np.abs(change), 3)
    summary = ", ".join(f"{names[i]} for {names[j]} {100 * change[i, j]:+.1f}" for i, j in most)
    # On the diagonal, more is better.
    worse = np.where(np.eye(len(change), dtype=bool), -change, change) > 0
    ax = _draw_matrix(ax, names, shades, worse, change, "{:+.0f}")
    return axes.describe(ax, f"Change of the confusion, in points. Most: {summary or 'none'}.")


def _draw_matrix(
    ax: Axes | None, names: Sequence[str], shades: Matrix, worse: np.ndarray, values: Matrix, form: str
) -> Axes:
    ax = axes.matrix_axes(ax, names, names, x_label="predicted class", y_label="true class")
    texts = [[form.format(100 * value) for value in row] for row in values]
    axes.fill_cells(
        ax, shades, [["" if text.strip("+-") == "0" else text for text in row] for row in texts], worse=worse
    )
    return ax


def top_confusions(rates: Matrix, count: int) -> list[tuple[int, int]]:
    """Return the off-diagonal cells with the highest rates above 0, highest first."""
    errors = _errors(rates)
    order = np.argsort(-errors, axis=None, kind="stable")[:count]
    cells = [(int(at // len(rates)), int(at % len(rates))) for at in order]
    return [cell for cell in cells if errors[cell] > 0]


def highest_error(rates: Matrix) -> float:
    """Return the highest rate of a confusion."""
    return float(_errors(rates).max())


def _errors(rates: Matrix) -> Matrix:
    errors = rates.copy()
    np.fill_diagonal(errors, 0.0)
    return errors


# --- section --------------------------------------------------------------------------------------------------------


def classes_section(run: RunData, classes: Sequence[ClassRow]) -> Markup:
    """Return the per-class changes, then the confusion before and after."""
    arm = run.method_arm
    if not classes or arm is None:
        why = "Not known: this needs the predictions of the student alone and of the distilled student."
        return section("classes", "Class by class", note(why))
    return section("classes", "Class by class", _changes(run, classes, arm), _confusion(run, arm))


def _changes(run: RunData, classes: Sequence[ClassRow], arm: str) -> Markup:
    cut = (
        f" Of {len(classes)} classes, the {MOST // 2} with the largest losses and gains." if len(classes) > MOST else ""
    )
    caption = (
        f"From the {ALONE} (small mark) to {arm} (large mark), in percentage points, with the number of test "
        f"examples.{cut} A star marks a significant change (false-discovery rate {100 * FALSE_DISCOVERIES:g} %: exact "
        "test of won and lost examples and, over seeds, a paired t test; Benjamini and Hochberg)."
    )
    rows = [
        (row.name, row.examples, f"{100 * row.before:.2f}", f"{100 * row.after:.2f}", f"{100 * row.change:+.2f}",
         f"{row.p_value:.3g}", f"{row.adjusted:.3g}", "yes" if row.sure else "no")
        for row in sorted(classes, key=lambda row: row.change)
    ]  # fmt: skip
    head = ("class", "test examples", f"{ALONE}, %", f"{arm}, %", "change", "p", "adjusted p", "significant")
    numbers = details(f"All {len(classes)} classes", table("Accuracy of each class", head, rows))
    arms = (ALONE, run.style(ALONE)), (arm, run.style(arm))
    title = "Accuracy of each class before and after"
    return figure(title, lambda: draw_class_changes(classes, *arms), caption, numbers)


def _confusion(run: RunData, arm: str) -> Markup | None:
    before, after = confusion_rates(run, ALONE), confusion_rates(run, arm)
    if before is None or after is None or before.shape != after.shape:
        return None
    names, change = _names(run, len(before)), after - before
    highest = max(highest_error(before), highest_error(after))
    rows = [(names[i], names[j], f"{100 * before[i, j]:.2f}", f"{100 * after[i, j]:.2f}", f"{100 * change[i, j]:+.2f}")
            for i, j in top_confusions(np.abs(change), 12)]  # fmt: skip
    head = ("true class", "predicted class", ALONE, arm, "change")
    caption = "The pairs of classes that changed most, % of the true class"
    shares = "Percent of the true class (row), over all seeds. Errors are shaded, on the same scale in both figures."
    return tag(
        "div",
        figure(f"Confusion before: {ALONE}", lambda: draw_confusion(before, names, highest=highest, arm=ALONE), shares,
               kind="matrix"),
        figure(f"Confusion after: {arm}", lambda: draw_confusion(after, names, highest=highest, arm=arm), shares,
               kind="matrix"),
        figure("What changed", lambda: draw_confusion_change(change, names, highest=highest_error(np.abs(change))),
               "After minus before, in percentage points. Orange: worse (more errors); blue: better.", kind="matrix"),
        table(caption, head, rows, words=2) if rows else None,
        class_="grid-2",
    )  # fmt: skip
