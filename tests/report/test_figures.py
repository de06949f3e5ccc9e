"""What the figures say: points, intervals, names, order, arrows for outliers, and descriptions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from matplotlib.figure import Figure

import limbeck.report as report
from limbeck.job import Search
from limbeck.job.search import ArmSearch
from limbeck.report.arms import ArmRow, ScoreFormat, read_stat
from limbeck.report.axes import BETTER, CARD, COLORS, MARKERS, WORSE
from limbeck.report.calibration import Bin, draw_deviation, draw_reliability
from limbeck.report.classes import (
    MOST,
    ClassRow,
    draw_class_changes,
    draw_confusion,
    draw_confusion_change,
    select_rows,
    top_confusions,
)
from limbeck.report.costs import ParetoPoint, draw_pareto, pareto_front
from limbeck.report.extra_metrics import Decline, draw_cka, draw_corruptions
from limbeck.report.scores import DifferenceRow, draw_differences, draw_scores
from limbeck.report.training import draw_search, draw_training
from report_runs import besides, planted_run, with_result
from searches import planted_search

SCORE = ScoreFormat()
ERROR = ScoreFormat("mean squared error", percent=False, higher_is_better=False)
SHUFFLED = "shuffled teacher"


def arm(name, *values, style=0):
    return ArmRow(name, "method", style, read_stat({"values": list(values)}), read_stat(None), {})


def usual(**more):
    """Arms as a comparison has them, with a control far below."""
    arms = [arm("teacher", 0.91), arm("student alone", 0.86, 0.865, style=2), arm("label smoothing", 0.868, 0.87),
            arm(SHUFFLED, 0.30, 0.31), arm("hinton", 0.880, 0.883)]  # fmt: skip
    return arms + [arm(name, *values) for name, values in more.items()]


def tips(ax):
    """Name -> line of the marks that have a tip."""
    found = {}
    for line in ax.lines:
        if str(line.get_gid()).startswith("tip:"):
            found[line.get_gid().removeprefix("tip:").split(":")[0]] = line
    return found


def names(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def words(ax):
    return [text.get_text() for text in ax.texts]


def arrows(ax):
    return [text for text in words(ax) if "off scale" in text]


class TestScores:
    def test_a_mark_for_every_seed_a_bar_for_the_mean_a_band_for_one_standard_deviation(self):
        ax = draw_scores([arm("a", 0.8, 0.84, style=3), arm("b", 0.9)], SCORE)
        assert names(ax) == ["a", "b"]
        assert list(tips(ax)["a"].get_xdata()) == pytest.approx([80, 84])
        assert (tips(ax)["a"].get_color(), tips(ax)["a"].get_marker()) == (COLORS[3], MARKERS[3])
        (band,) = ax.patches
        half = math.sqrt(2) * 2
        assert (band.get_x(), band.get_width()) == (pytest.approx(82 - half), pytest.approx(2 * half))
        (mean,) = [line for line in ax.lines if list(line.get_xdata()) == [pytest.approx(82)] * 2]
        assert max(mean.get_ydata()) < 0.5
        assert {"82.00 % ± 2.83", "90.00 %"} <= set(words(ax))
        assert ax.get_label() == "Test accuracy of every arm. a 82.00 % ± 2.83; b 90.00 %."
        assert ax.get_xlabel() == "test accuracy, %"

    def test_the_others_have_the_scale_that_they_would_have_alone(self):
        arms = usual()
        ax, near = draw_scores(arms, SCORE), [one for one in arms if one.name != SHUFFLED]
        assert ax.get_xlim() == draw_scores(near, SCORE).get_xlim()
        assert arrows(ax) == ["← off scale, 30.50 %"]
        assert SHUFFLED not in tips(ax)
        assert ax.get_label().endswith(f"Outliers beyond the scale: {SHUFFLED}.")

    def test_the_order_stays_and_all_outliers_have_arrows(self):
        arms = usual(worse=(0.1, 0.11), better=(0.885, 0.886), fine=(0.87, 0.873))
        ax = draw_scores(arms, SCORE)
        assert names(ax) == [one.name for one in arms]
        assert ax.yaxis_inverted()
        assert arrows(ax) == ["← off scale, 30.50 %", "← off scale, 10.50 %"]

    def test_what_the_figure_is_about_stays_on_the_scale(self):
        ax = draw_scores(usual(), SCORE, pinned=["student alone", SHUFFLED])
        assert arrows(ax) == []
        assert ax.get_xlim()[0] <= 30

    @pytest.mark.parametrize("values", [[(0.9,)], [(0.9, 0.91), (0.1, 0.12)], [(0.5, 0.5)] * 5, [(0.9,), (), (0.1,)],
                                        [(0.0,)], [(1.0, 1.0)]])  # fmt: skip
    def test_few_or_equal_arms_are_all_on_the_scale(self, values):
        ax = draw_scores([arm(str(i), *one) for i, one in enumerate(values)], SCORE)
        low, high = ax.get_xlim()
        drawn = [x for line in tips(ax).values() for x in line.get_xdata()]
        assert len(drawn) == sum(map(len, values))
        assert all(low <= x <= high for x in drawn)
        assert 0 <= low < high <= 100

    def test_an_arm_with_a_missing_value_is_named(self):
        broken = ArmRow("broken", "method", 1, read_stat({"values": [0.2, None]}), read_stat(None), {})
        assert "not a number for every seed" in words(draw_scores([*usual(), broken], SCORE))

    def test_an_error_is_not_in_percent(self):
        ax = draw_scores([arm("a", 12.5), arm("b", 14.0)], ERROR)
        assert list(tips(ax)["a"].get_xdata()) == [12.5]
        assert {"12.5", "14"} <= set(words(ax))
        assert ax.get_xlabel() == "test mean squared error"


class TestDifferences:
    def test_intervals_end_where_they_do(self):
        rows = [DifferenceRow("a", 0, 0.01, (0.0, 0.02)), DifferenceRow("b", 1, -0.02, None)]
        ax = draw_differences(rows, SCORE)
        assert {name: list(line.get_xdata()) for name, line in tips(ax).items()} == {"a": [1.0], "b": [-2.0]}
        spans = [tuple(line.get_xdata()) for line in ax.lines if len(line.get_xdata()) == 2]
        assert spans == [(0.0, 2.0)]
        assert "+1.00  [+0.00, +2.00]" in words(ax)
        assert "-2.00, one seed" in words(ax)
        assert "one seed" in ax.get_label()

    def test_zero_is_always_on_the_scale(self):
        for means in itertools.product((0.3, 0.31, -0.002, 0.001), repeat=3):
            rows = [DifferenceRow(str(i), i, mean, (mean - 0.001, mean + 0.001)) for i, mean in enumerate(means)]
            low, high = draw_differences(rows, SCORE, ax=Figure().add_subplot()).get_xlim()
            assert low < 0 < high

    @pytest.mark.parametrize(("mean", "arrow"), [(-0.5, "← off scale, -50.00"), (0.5, "+50.00, off scale →")])
    def test_an_outlier_is_an_arrow_on_its_side(self, mean, arrow):
        near = [DifferenceRow("a", 0, 0.002, (0.001, 0.003)), DifferenceRow("b", 1, -0.001, None)]
        ax = draw_differences([*near, DifferenceRow("c", 2, mean, (mean - 0.01, mean + 0.01))], SCORE)
        assert arrows(ax) == [arrow]
        assert ax.get_xlim() == draw_differences(near, SCORE).get_xlim()
        assert ax.get_label().endswith("Outliers beyond the scale: c.")

    def test_a_wide_interval_ends_in_arrows_and_does_not_hide_the_others(self):
        rows = [DifferenceRow("a", 0, 0.0, (-0.06, 0.06)), DifferenceRow("b", 1, 0.01, (-0.05, 0.07)),
                DifferenceRow("wide", 2, 0.15, (-1.7, 2.0))]  # fmt: skip
        ax = draw_differences(rows, SCORE)
        assert max(map(abs, ax.get_xlim())) < 30
        shapes = [line.get_marker() for line in ax.lines if line.get_marker() in "|<>"]
        assert shapes == ["|", "|", "|", "|", "<", ">"]
        assert "+15.00  [-170.00, +200.00]" in words(ax)

    def test_a_single_wide_interval_is_drawn_whole(self):
        ax = draw_differences([DifferenceRow("a", 0, 0.01, (-0.9, 0.92))], SCORE)
        assert [line.get_marker() for line in ax.lines if line.get_marker() in "|<>"] == ["|", "|"]

    def test_the_line_at_zero_does_not_run_through_text(self):
        rows = [DifferenceRow(str(i), 0, 0.001 * i, (-0.01, 0.01)) for i in range(3)]
        ax = draw_differences([*rows, DifferenceRow("far", 1, 0.9, None)], SCORE)
        (zero,) = ax.collections
        pieces = [sorted(path[:, 1]) for path in zero.get_segments()]
        assert len(pieces) == 3, "no piece in the row of the arrow"
        for low, high in pieces:
            assert not any(low <= tick <= high for tick in ax.get_yticks())


class TestPareto:
    def points(self, *more):
        named = (("teacher", 5.0, 0.91), ("student alone", 1.0, 0.865), ("hinton", 1.01, 0.885), (SHUFFLED, 1.0, 0.30))
        return [ParetoPoint(name, i, cost, accuracy, 0.004) for i, (name, cost, accuracy) in enumerate((*named, *more))]

    def draw(self, points, score=SCORE):
        return draw_pareto(points, "milliseconds", score)

    def test_points_are_where_cost_and_score_are(self):
        ax = self.draw([ParetoPoint("a", 0, 2.0, 0.8, 0.01), ParetoPoint("b", 1, 8.0, 0.9, None)])
        assert {name: (line.get_xdata()[0], line.get_ydata()[0]) for name, line in tips(ax).items()} == {
            "a": (pytest.approx(2.0), 80.0), "b": (pytest.approx(8.0), 90.0)}  # fmt: skip
        assert ax.get_xscale() == "log"
        assert "milliseconds" in ax.get_xlabel()
        bars = [line.get_ydata() for line in ax.lines if line.get_color() == COLORS[0] and len(line.get_ydata()) == 2]
        assert [list(bar) for bar in bars] == [pytest.approx([79, 81])]

    def test_models_of_equal_cost_stand_side_by_side(self):
        marks = tips(self.draw(self.points()))
        places = [marks[name].get_xdata()[0] for name in ("student alone", "hinton", SHUFFLED)]
        assert len(set(places)) == 3

    def test_an_outlier_is_at_the_edge_below_all_others(self):
        points = self.points()
        ax = self.draw(points)
        near = self.draw([p for p in points if p.name != SHUFFLED])
        assert ax.get_ylim() == near.get_ylim()
        heights = {name: line.get_ydata()[0] for name, line in tips(ax).items()}
        assert ax.get_ylim()[0] < heights[SHUFFLED] < heights["student alone"] < heights["hinton"] < heights["teacher"]
        assert words(ax) == [f" ↓ {SHUFFLED}, 30.00 %"]
        assert ax.get_label().endswith(f"Outliers beyond the scale: {SHUFFLED} 30.00 %.")

    def test_no_model_on_the_front_is_moved(self):
        """The cheapest is on the front however bad it is, and so is the best."""
        points = self.points(("tiny", 0.01, 0.1))
        assert "tiny" in [p.name for p in pareto_front(points)]
        assert "outliers" not in self.draw(points).get_label().lower()

    @pytest.mark.parametrize("count", [1, 2, 3, 4])
    def test_any_number_of_equal_models(self, count):
        ax = self.draw([ParetoPoint(str(i), i, 1.0, 0.5, None) for i in range(count)])
        assert len(tips(ax)) == count

    def test_the_front_is_what_nothing_beats(self):
        named = (("cheap", 1.0, 0.8), ("same", 1.04, 0.79), ("dear", 5.0, 0.9), ("bad", 6.0, 0.85))
        cheap, same, dear, bad = (ParetoPoint(name, 0, cost, value, None) for name, cost, value in named)
        assert [point.name for point in pareto_front([bad, dear, same, cheap])] == ["cheap", "dear"]
        assert [p.name for p in pareto_front([bad, dear, same, cheap], higher_is_better=False)] == ["same"]
        assert pareto_front([cheap, cheap._replace(name="twin")]) != []

    def test_brute_force_of_the_front(self):
        draw = np.random.default_rng(0)
        points = [ParetoPoint(str(i), 0, 10 ** draw.uniform(-2, 2), draw.uniform(), None) for i in range(60)]
        front = pareto_front(points)
        for point in points:
            beaten = any(o.value > point.value and o.cost <= 1.05 * point.cost for o in points)
            assert (point in front) == (not beaten)


class TestClasses:
    def test_only_the_classes_that_change_most_are_drawn(self):
        rows = [ClassRow(str(i), 0.5, 0.5 + i / 1000, 10, i == 99, 0.5, 0.5) for i in range(100)]
        shown = select_rows(rows)
        assert [len(shown), shown[0].name, shown[-1].name] == [MOST, "0", "99"]
        ax = draw_class_changes(rows, ("before", 2), ("after", 0))
        assert names(ax) == [row.name for row in shown]
        assert [text for text in words(ax) if "*" in text] == ["+9.9 *   of 10"]
        assert list(tips(ax)["after"].get_xdata()) == pytest.approx([100 * row.after for row in shown])
        assert "significant: 99 +9.9" in ax.get_label()

    def test_losses_and_gains_have_their_colors(self):
        rows = [ClassRow("up", 0.5, 0.6, 9, False, 1, 1), ClassRow("down", 0.5, 0.4, 9, False, 1, 1)]
        ax = draw_class_changes(rows, ("before", 2), ("after", 0))
        from matplotlib.colors import to_rgba

        assert [tuple(color) for color in ax.collections[0].get_colors()] == [to_rgba(WORSE), to_rgba(BETTER)]

    def test_confusion_shades_errors_alone(self):
        rates = np.array([[0.9, 0.1, 0.0], [0.0, 1.0, 0.0], [0.2, 0.0, 0.8]])
        ax = draw_confusion(rates, "abc", highest=0.2, arm="x")
        shades = ax.images[0].get_array()[..., 3]
        assert shades.tolist() == [[0, 0.5, 0], [0, 0, 0], [1, 0, 0]]
        assert words(ax) == ["90", "10", "100", "20", "80"]
        assert [text.get_position() for text in ax.texts][1] == (1.5, 0.5), "column and row of the cell"
        assert top_confusions(rates, 5) == [(2, 0), (0, 1)]
        assert "c predicted as a 20.0 %" in ax.get_label()

    def test_a_change_has_the_color_of_worse_or_better(self):
        change = np.array([[-0.1, 0.1], [-0.2, 0.2]])
        image = draw_confusion_change(change, "ab", highest=0.2).images[0].get_array()
        from matplotlib.colors import to_rgb

        worse = [[True, True], [False, False]]  # a correct class that loses is worse, and so is an error that gains
        assert [[tuple(cell[:3]) == to_rgb(WORSE) for cell in row] for row in image.tolist()] == worse

    def test_many_classes_have_no_text_and_visible_rare_errors(self):
        rates = np.eye(100)
        rates[3, 7] = 0.001
        ax = draw_confusion(rates, [str(i) for i in range(100)], highest=0.5, arm="x")
        assert words(ax) == []
        assert ax.images[0].get_array()[3, 7, 3] == 0.06
        assert len(ax.get_yticklabels()) == 2


class TestCalibration:
    def test_every_bin_is_a_mark_and_small_ones_are_not_joined(self):
        bins = [Bin(0.3, 0.2, 0.001), Bin(0.5, 0.6, 0.499), Bin(0.9, 0.95, 0.5)]
        ax = draw_reliability({"a": (2, bins)})
        marks = [line for line in ax.lines if str(line.get_gid()).startswith("tip:a")]
        assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in marks] == [(30, 20), (50, 60), (90, 95)]
        assert marks[0].get_markersize() < marks[1].get_markersize() < marks[2].get_markersize()
        (line,) = [line for line in ax.lines if line.get_label() == "a"]
        assert list(line.get_xdata()) == [50, 90]
        assert "mean confidence 70.0 %" in ax.get_label()

    def test_dots_beyond_the_edge_are_at_it(self):
        ax = draw_deviation([1e9, -1e9, 0.0], [1e9, 0.0, -1e9], [True, False, True], fit=None)
        low, high = ax.get_xlim()
        dots = {line.get_label(): line for line in ax.lines}
        assert list(dots["teacher correct"].get_xdata()) == [9, 0]
        assert list(dots["teacher wrong"].get_xdata()) == [-9]
        assert low < -9 < 9 < high

    def test_a_line_and_at_most_700_dots(self):
        ax = draw_deviation([0.1] * 5000, [0.2] * 5000, [True] * 5000, fit=(2.0, 0.5))
        assert len(ax.lines[1].get_xdata()) <= 700
        assert list(ax.lines[-1].get_ydata()) == pytest.approx([0.7, 0.7])
        assert "slope 2.00" in ax.get_label()


class TestTraining:
    def test_thin_lines_for_seeds_and_a_mark_at_the_end_of_the_mean(self):
        curves = [[(1.0, 3.0), (2.0, 1.0)], [(1.0, 1.0), (2.0, 0.5), (3.0, 0.4)]]
        ax = draw_training("loss", {"a": (2, curves)})
        thin = [line for line in ax.lines if line.get_alpha()]
        assert [list(line.get_ydata()) for line in thin] == [[3.0, 1.0], [1.0, 0.5, 0.4]]
        (mean,) = [line for line in ax.lines if line.get_linewidth() == 2.0]
        assert list(mean.get_ydata()) == [2.0, 0.75]
        assert list(tips(ax)["a"].get_ydata()) == [pytest.approx(0.7)]
        assert ax.get_xlim()[1] == 3.0

    def test_the_first_steps_do_not_determine_the_scale(self):
        curve = [(float(i), 1e6 if i == 0 else 1.0 + i / 100) for i in range(100)]
        assert draw_training("loss", {"a": (0, [curve])}).get_ylim()[1] < 3


def searched(*accuracies):
    best = [max(accuracies[: i + 1]) for i in range(len(accuracies))]
    return ArmSearch({}, {}, accuracies, tuple(best), accuracies.index(max(accuracies)), 0, 1, 1.0)


class TestSearch:
    def draw(self, luck=0.01, **arms):
        search = Search({name: searched(*values) for name, values in arms.items()}, 500, luck)
        return draw_search(search, {name: i for i, name in enumerate(arms)}, SCORE)

    def test_a_staircase_for_each_arm_and_a_large_mark_at_what_was_chosen(self):
        ax = self.draw(alone=(0.80, 0.70, 0.83, 0.83), hinton=(0.81, 0.85, 0.84, 0.82))
        stairs = [patch.get_data().values for patch in ax.patches if hasattr(patch, "get_data")]
        assert [list(values) for values in stairs] == [
            pytest.approx([80, 80, 83, 83]), pytest.approx([81, 85, 85, 85])]  # fmt: skip
        assert [round(line.get_xdata()[0]) for line in tips(ax).values()] == [3, 2]
        assert sum(len(line.get_xdata()) for line in ax.lines) == 2 + 7, "one trial lies below the figure"
        assert "alone from 80.00 % to 83.00 %, reached in trial 3 of 4" in ax.get_label()

    @pytest.mark.parametrize("arms", [{"a": (0.5,)}, {"a": (0.9, 0.9, 0.9), "b": (0.9, 0.9, 0.9)}, {"a": (0.0,) * 4},
                                      {"a": (0.1, 0.9, 0.91, 0.92), "b": (0.9, 0.91, 0.9, 0.92)}])  # fmt: skip
    def test_what_was_chosen_is_on_the_scale(self, arms):
        ax = self.draw(luck=0.02, **arms)
        low, high = ax.get_ylim()
        assert all(low <= line.get_ydata()[0] <= high for line in tips(ax).values())
        if arms.get("a", ())[0] == 0.1:
            assert low > 85


def test_cells_are_shaded_from_0_to_1():
    ax = draw_cka([[0.25, 1.2], [-0.1, math.nan]], ["a", "b"], ["c", "d"], arm="x")
    assert ax.images[0].get_array()[..., 3].tolist() == [[0.25, 1.0], [0.0, 0.0]]
    assert words(ax) == ["0.25", "1.20", "-0.10", "-"]
    assert "a 1.20, b -0.10" in ax.get_label()


def test_many_layers_are_labeled_at_the_ends():
    values = [[1 / (1 + i + j) for j in range(60)] for i in range(30)]
    ax = draw_cka(values, [f"a.{i}.x" for i in range(30)], [f"b.{i}.x" for i in range(60)], arm="x")
    assert names(ax) == ["0.x", "29.x"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.x", "59.x"]


def test_lines_go_through_the_accuracies_and_bars_stay_below_100():
    arms = [Decline("a", 2, [0.99, 0.9, 0.5], [0.05, 0.05, None]), Decline("b", 0, [0.9, 0.8, 0.7], [None] * 3)]
    ax = draw_corruptions(arms)
    assert list(tips(ax)["a"].get_ydata()) == pytest.approx([99, 90, 50])
    tops = [segment[:, 1].max() for segment in ax.collections[0].get_segments()]
    assert tops == pytest.approx([100, 95])
    assert "a from 99.0 to 50.0 %" in ax.get_label()


# --- the public functions -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = planted_search(planted_run(tmp_path_factory.mktemp("figures") / "run", test=200, seeds=2))
    return with_result(folder, lambda result: result.update(besides(seeds=2)))


PLOTS = {
    "plot_scores": {},
    "plot_differences": {},
    "plot_pareto": {"cost": "megabytes"},
    "plot_reliability": {},
    "plot_deviation": {},
    "plot_class_changes": {},
    "plot_confusion": {"arm": "fitnets"},
    "plot_training": {"term": "cross_entropy"},
    "plot_search": {},
    "plot_cka": {},
    "plot_corruptions": {},
}


def test_every_public_figure_is_tested():
    # test_outputs.py has plot_predictions, which needs a regression.
    assert {name for name in report.__all__ if name.startswith("plot_")} == {*PLOTS, "plot_predictions"}


@pytest.mark.parametrize(("name", "arguments"), PLOTS.items())
def test_a_figure_is_drawn_from_a_folder_or_on_axes_of_the_user(run, name, arguments):
    plot = getattr(report, name)
    ax = plot(run, **arguments)
    assert len(ax.get_label()) > 20
    own = Figure().add_subplot()
    assert plot(report.read_run(run), **arguments, ax=own) is own
    assert own.get_label() == ax.get_label()
    ax.figure.canvas.draw()
    own.figure.canvas.draw()


def test_an_arm_has_one_color_and_one_shape_in_all_figures(run):
    styles = {}
    arms = report.read_run(run).arms
    for name, arguments in PLOTS.items():
        for line in report.__dict__[name](run, **arguments).lines:
            arm_name = str(line.get_gid() or "").removeprefix("tip:").removeprefix("over ").split(":")[0]
            if arm_name in arms:
                styles.setdefault(arm_name, set()).add((line.get_color(), line.get_marker()))
    assert set(styles) == set(arms)
    assert all(len(found) == 1 for found in styles.values())
    assert len(set.union(*styles.values())) == len(arms)


@pytest.mark.parametrize(
    ("name", "arguments", "word"),
    [("plot_confusion", {"arm": "x"}, "hinton"), ("plot_training", {"term": "x"}, "cross_entropy"),
     ("plot_cka", {"arm": "x"}, "cka")],
)  # fmt: skip
def test_what_a_run_lacks_is_named_with_what_it_has(run, name, arguments, word):
    with pytest.raises(ValueError, match=word):
        getattr(report, name)(run, **arguments)


def test_marks_have_an_edge_in_the_color_of_the_card(run):
    assert tips(report.plot_scores(run))["hinton"].get_markeredgecolor() == CARD
