"""Outputs of tasks other than classification: predictions against targets, and scores of each label or class."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from limbeck.errors import DataError
from limbeck.job import RunLayout
from limbeck.job.run_layout import PREDICTIONS
from limbeck.metrics import count_pixels, load_tensors
from limbeck.metrics.classification import evaluate
from limbeck.metrics.multi_label import MultiLabelPredictions
from limbeck.report import axes
from limbeck.report.axes import Axes
from limbeck.report.html import Markup, note, section, table, tag
from limbeck.report.run_data import ALONE, RunData, load_run
from limbeck.report.svg import figure
from limbeck.tasks import MultiLabel, Regression, Segmentation

_MOST_DOTS = 1500
_NO_LABEL_BYTE = 255


def read_outputs(run: RunData, arm: str, seed: int = 0) -> Tensor | None:
    """Read what an arm's student (or the teacher) answered on the test data; None if it is not on disk."""
    teacher = run.arms[arm].role == "teacher" if arm in run.arms else False
    layout = RunLayout(run.folder)
    return _read(layout.teacher_outputs if teacher else layout.seed(arm, seed) / PREDICTIONS, "test")


def plot_predictions(run: RunData | str | Path, *, output: int = 0, ax: Axes | None = None) -> Axes:
    """Plot the predictions of the judged student against the targets of a regression, a dot for each test example.

    On the diagonal they are equal.

    Args:
        run: The folder of a finished run, or what `read_run` returns.
        output: The target column, from 0.
        ax: Axes to draw on; by default those of a new figure.

    Raises:
        ValueError: If the run is not a regression, or has no predictions.
    """
    run = load_run(run)
    targets, outputs = _targets(run), read_outputs(run, run.method_arm or "")
    if not isinstance(run.task, Regression) or targets is None or outputs is None:
        raise ValueError("this run has no predictions of numbers")
    names = run.task.output_names
    title = names[output] if names else "target"
    return draw_predictions(targets[:, output].tolist(), outputs[:, output].tolist(), title=title, ax=ax)


def draw_predictions(
    targets: Sequence[float], predictions: Sequence[float], *, title: str = "target", ax: Axes | None = None
) -> Axes:
    """Draw predictions against targets; examples without a target are left out."""
    pairs = [(x, y) for x, y in zip(targets, predictions, strict=True) if x == x and y == y]  # NaN is not itself
    pairs = pairs[:: max(1, -(-len(pairs) // _MOST_DOTS))]
    limits = axes.padded_limits([value for pair in pairs for value in pair] or [0.0, 1.0], least=1e-6)
    ax = axes.new_axes(ax, height=380.0, left=82.0)
    ax.set(xlim=limits, ylim=limits, xlabel=f"{title}, test data", ylabel="prediction of the student")
    ax.plot(limits, limits, "--", color=axes.QUIET, linewidth=1.0)
    ax.plot([x for x, _ in pairs], [y for _, y in pairs], "o", color=axes.COLORS[0], markersize=5.2, alpha=0.42,
            markeredgewidth=0)  # fmt: skip
    return axes.describe(ax, f"Predictions of the student against {title} for {len(pairs)} test examples.")


def outputs_section(run: RunData) -> Markup:
    """Return what the outputs of the judged student look like, beside those of the teacher and the student alone."""
    targets, content = _targets(run), note("Not known: this needs predictions, which this run does not have.")
    if targets is not None and run.method_arm is not None and read_outputs(run, run.method_arm) is not None:
        if isinstance(run.task, Regression):
            content = _predictions(run)
        elif isinstance(run.task, MultiLabel):
            content = _labels(run, targets)
        elif isinstance(run.task, Segmentation):
            content = _classes(run, run.task, targets)
    return section("outputs", "What the student answers", content)


def _predictions(run: RunData) -> Markup:
    names = run.task.output_names or tuple(map(str, range(run.task.outputs)))
    caption = "A dot for each test example. On the dashed line, prediction and target are equal."
    drawn = [
        figure(f"{name}: predictions of {run.method_arm} (seed 0) and targets",
               partial(plot_predictions, run, output=i), caption)
        for i, name in enumerate(names[:4])
    ]  # fmt: skip
    return tag("div", drawn, class_="grid-2")


def _labels(run: RunData, targets: Tensor) -> Markup:
    """A table of F1 and average precision by label."""
    names = run.task.output_names or tuple(map(str, range(run.task.outputs)))
    arms = _shown(run)
    head = ("label", "yes in test data", *(f"F1 of {arm}, %" for arm in arms), *(f"AP of {arm}, %" for arm in arms))
    rows = []
    for i, name in enumerate(names):
        column = targets[:, i : i + 1].long()
        scores = [
            evaluate(
                MultiLabelPredictions(outputs[:, i : i + 1], labels=column), ["f1_micro", "mean_average_precision"]
            )
            for outputs in arms.values()
        ]
        cells = [_percent(score[key].value) for key in ("f1_micro", "mean_average_precision") for score in scores]
        rows.append((name, f"{int((column == 1).sum()):,}", *cells))
    return table("F1 and average precision of each label, seed 0", head, rows)


def _classes(run: RunData, task: Segmentation, targets: Tensor) -> Markup:
    """A table of the IoU of each class."""
    names = task.output_names or tuple(map(str, range(task.outputs)))
    arms = {
        arm: count_pixels(outputs, targets, task.outputs, ignored=_NO_LABEL_BYTE).sum(0).double()
        for arm, outputs in _shown(run).items()
    }
    head = ("class", "pixels in test data, %", *(f"IoU of {arm}, %" for arm in arms))
    rows = []
    for i, name in enumerate(names):
        share = next(iter(arms.values()))[2]
        cells = [_percent(float(right[i] / (guess[i] + true[i] - right[i]))) for right, guess, true in arms.values()]
        rows.append((name, _percent(float(share[i] / share.sum())), *cells))
    return table("Intersection over union of each class, seed 0", head, rows)


def _shown(run: RunData) -> dict[str, Tensor]:
    """The outputs of the teacher, the student alone and the judged student."""
    teacher = run.teacher_arm.name if run.teacher_arm else ""
    read = {arm: read_outputs(run, arm) for arm in (teacher, ALONE, run.method_arm or "") if arm in run.arms}
    return {arm: outputs for arm, outputs in read.items() if outputs is not None}


def _targets(run: RunData) -> Tensor | None:
    return _read(RunLayout(run.folder).teacher_outputs, "test_labels")


def _read(path: Path, name: str) -> Tensor | None:
    try:
        return load_tensors(path).get(name)
    except DataError:
        return None


def _percent(value: float) -> str:
    return "-" if value != value else f"{100 * value:.1f}"
