"""Pages of regression, several labels and segmentation say their metric and show their outputs."""

from __future__ import annotations

import re

import pytest
import torch
from matplotlib.figure import Figure

from limbeck.report import (
    plot_class_changes,
    plot_predictions,
    plot_reliability,
    plot_scores,
    read_run,
    report_page,
)
from limbeck.report.outputs import draw_predictions
from limbeck.tasks import MultiLabel, Regression, Segmentation
from report_runs import planted_run, planted_task

TARGETS = torch.tensor([[float(i), float(-i)] for i in range(20)])


@pytest.fixture(scope="module")
def regression(tmp_path_factory):
    noise = torch.linspace(-1, 1, 20)[:, None] ** 3
    outputs = {"teacher": TARGETS + 0.1 * noise, "student alone": TARGETS + 3 * noise, "hinton": TARGETS + noise}
    task = Regression(names=("height", "depth"), mean=(0.0, 0.0), std=(1.0, 1.0))
    return planted_task(tmp_path_factory.mktemp("regression") / "run", task, TARGETS, outputs)


def words(page):
    return re.sub(r"<[^>]+>", "\n", page.split("</style>", 1)[1])


def table_of(page, caption):
    """The rows of the table with this caption, as texts."""
    body = page.split(caption)[-1].split("</table>")[0]
    return [re.findall(r"<t[hd][^>]*>([^<]*)<", row) for row in body.split("<tr>")[2:]]


def test_a_regression_shows_predictions_against_targets(regression):
    page = report_page([read_run(regression)])
    text = words(page)
    assert "height: predictions of hinton (seed 0) and targets" in text
    assert "R² against cost" in text
    for word in ("accuracy", "Reliability", "Confusion", "label smoothing&#x27; was not run"):
        assert word not in text, word


def test_the_dots_are_targets_and_predictions(regression):
    ax = plot_predictions(regression, output=1)
    dots = ax.lines[1]
    assert list(dots.get_xdata()) == TARGETS[:, 1].tolist()
    assert list(dots.get_ydata()) == pytest.approx((TARGETS[:, 1] + torch.linspace(-1, 1, 20) ** 3).tolist())
    assert ax.get_xlim() == ax.get_ylim()
    assert ax.get_xlabel() == "depth, test data"
    own = Figure().add_subplot()
    assert plot_predictions(read_run(regression), ax=own) is own


def test_examples_without_a_target_have_no_dot():
    ax = draw_predictions([1.0, float("nan"), 3.0], [1.5, 2.0, 2.5])
    assert list(ax.lines[1].get_xdata()) == [1.0, 3.0]
    assert "2 test examples" in ax.get_label()


def test_scores_are_those_of_the_task(regression):
    ax = plot_scores(regression)
    assert ax.get_xlabel() == "test R²"
    assert "%" not in ax.get_label()


def test_what_is_no_regression_has_no_predictions_to_plot(tmp_path):
    with pytest.raises(ValueError, match="no predictions of numbers"):
        plot_predictions(planted_run(tmp_path / "run", test=50, seeds=1))


@pytest.mark.parametrize("plot", [plot_reliability, plot_class_changes])
def test_a_run_without_classes_has_no_figure_of_classes(plot, regression):
    with pytest.raises(ValueError, match="no predictions of classes"):
        plot(regression)


def test_several_labels_have_a_table_of_each_label(tmp_path):
    targets = torch.tensor([[1, 0], [0, 1], [1, 1], [0, -100]] * 5)
    right = torch.where(targets == 1, 2.0, -2.0)
    wrong = right.clone()
    wrong[:, 1] = 2.0
    outputs = {"teacher": right, "student alone": wrong, "hinton": right}
    task = MultiLabel(labels=2, names=("cat", "<dog>"))
    page = report_page([read_run(planted_task(tmp_path / "run", task, targets, outputs))])
    assert "micro F1" in page
    rows = table_of(page, "F1 and average precision of each label")
    assert [row[0] for row in rows] == ["cat", "&lt;dog&gt;"]
    # The student alone says yes to every dog: precision 2 of 3, recall 1.
    assert rows[1][1:5] == ["10", "100.0", "80.0", "100.0"]


def test_segmentation_has_the_iou_of_each_class(tmp_path):
    targets = torch.zeros(20, 2, 2, dtype=torch.uint8)
    targets[:, 0] = 1
    half = targets.clone()
    half[:, 0, 0] = 0
    outputs = {"teacher": targets, "student alone": half, "hinton": targets}
    page = report_page([read_run(planted_task(tmp_path / "run", Segmentation(classes=2), targets, outputs))])
    assert "mean IoU" in page
    rows = table_of(page, "Intersection over union of each class")
    assert rows == [["0", "50.0", "100.0", "66.7", "100.0"], ["1", "50.0", "100.0", "50.0", "100.0"]]
