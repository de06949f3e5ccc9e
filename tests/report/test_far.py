"""Is only that moved to a scale's edge which lies far off, and is it said in figure, number and words?"""

from __future__ import annotations

import itertools
from xml.etree import ElementTree

import numpy as np
import pytest

from limbeck.report.arms import ArmRow, read_stat
from limbeck.report.axes import FAR, AxisScale, axis_values, clip_interval, outliers
from limbeck.report.figures import (
    CostPoint,
    DifferenceRow,
    accuracies_figure,
    differences_figure,
    pareto_figure,
    pareto_front,
)
from limbeck.report.row_layout import NARROW, WIDE

SHUFFLED = "shuffled teacher"


def arm(name, *values, style=0):
    return ArmRow(name, "method", style, read_stat({"values": list(values)}), read_stat(None), {})


def usual(**more):
    """Arms as a comparison has them, with a control far below."""
    arms = [arm("teacher", 0.91), arm("student alone", 0.86, 0.865), arm("label smoothing", 0.868, 0.87),
            arm(SHUFFLED, 0.30, 0.31), arm("hinton", 0.880, 0.883)]  # fmt: skip
    return arms + [arm(name, *values) for name, values in more.items()]


def drawn(markup):
    return ElementTree.fromstring(markup)


def marked(root, word):
    return [one for one in root.iter() if word in one.get("class", "").split()]


def rows_of(root):
    """Row's name -> its element, in the order in which they are drawn."""
    return {next(one.text for one in row.iter("text")): row for row in marked(root, "arm")}


def ticks(root):
    return [float(one.text.removesuffix(" %")) for one in marked(root, "tick")]


class TestWhoIsFarOff:
    @pytest.mark.parametrize("count", [0, 1, 2])
    def test_one_or_two_never_are(self, count):
        assert outliers([(0.0, 0.0), (1e9, 1e9)][:count], least=1.0) == {}

    @pytest.mark.parametrize("count", [3, 4, 9])
    def test_the_same_value_never_is(self, count):
        assert outliers([(90.0, 90.0)] * count, least=1.0) == {}

    def test_what_is_no_number_is_nowhere(self):
        spans = [None, (90.0, 91.0), None, (10.0, 11.0), (90.5, 92.0)]
        assert outliers(spans, least=1.0) == {3: -1}
        assert outliers([None] * 5, least=1.0) == {}
        assert outliers([None, (1.0, 1.0), (99.0, 99.0)], least=1.0) == {}, "two that are known"

    def test_both_sides(self):
        assert outliers([(99.0, 99.0), (50.0, 51.0), (51.0, 51.5), (0.0, 1.0), (49.5, 50.0)], least=1.0) == {
            0: 1,
            3: -1,
        }

    def test_a_wide_interval_that_comes_near_is_not_far(self):
        near = [(90.0, 91.0), (89.0, 90.0)]
        assert outliers([*near, (10.0, 12.0)], least=1.0) == {2: -1}
        assert outliers([*near, (10.0, 85.0)], least=1.0) == {}

    def test_just_so_far(self):
        """Four times as far as the others are wide stays; a hair further does not."""
        near = [(0.0, 2.0), (1.0, 2.0)]
        assert outliers([*near, (2.0 + FAR * 2.0, 20.0)], least=1.0) == {}
        assert outliers([*near, (2.0 + FAR * 2.0 + 1e-6, 20.0)], least=1.0) == {2: 1}
        same = [(5.0, 5.0)] * 2
        assert outliers([*same, (5.0 - FAR * 3.0, 5.0 - FAR * 3.0)], least=3.0) == {}

    def test_what_is_kept_stays(self):
        spans = [(90.0, 90.0), (90.1, 90.2), (90.3, 90.3), (10.0, 11.0), (9.0, 9.0)]
        assert outliers(spans, least=1.0) == {3: -1, 4: -1}
        assert outliers(spans, least=1.0, pinned=[4]) == {}
        assert outliers([*spans, (500.0, 500.0)], least=1.0, pinned=[4]) == {5: 1}

    def test_of_two_halves_neither_is(self):
        assert outliers([(1.0, 1.0), (1.1, 1.1), (99.0, 99.0), (99.1, 99.1)], least=1.0) == {}

    def test_nothing_is_moved_that_is_not_far_from_all_that_stay(self):
        """Whatever the spans and their order: the moved are few, far, and beyond the others on their side."""
        draw, moved = np.random.default_rng(0), 0
        for _ in range(300):
            middles = draw.normal(0, 10.0 ** draw.uniform(-1, 2, draw.integers(1, 9)))
            half = np.abs(draw.normal(0, 1, len(middles)))
            spans = list(zip((middles - half).tolist(), (middles + half).tolist(), strict=True))
            far = outliers(spans, least=1.0)
            stay = [span for i, span in enumerate(spans) if i not in far]
            low, high = min(low for low, _ in stay), max(high for _, high in stay)
            assert len(stay) > len(spans) / 2
            for place, side in far.items():
                away = low - spans[place][1] if side < 0 else spans[place][0] - high
                assert away > FAR * max(high - low, 1.0)
            order = draw.permutation(len(spans)).tolist()
            again = outliers([spans[i] for i in order], least=1.0)
            assert {order[i]: side for i, side in again.items()} == far
            moved += len(far)
        assert moved > 50


class TestIntervals:
    def test_points_are_always_held_and_ends_unless_they_are_far(self):
        assert axis_values([1.0, 2.0], [0.0, 3.0], least=1.0) == [1.0, 2.0, 0.0, 3.0]
        assert axis_values([1.0, 2.0], [0.0, 300.0], least=1.0) == [1.0, 2.0, 0.0]
        assert axis_values([1.0, 2.0, 300.0], [0.0, 305.0], least=1.0) == [1.0, 2.0, 300.0, 0.0, 305.0]

    def test_reach(self):
        scale = AxisScale(0, 10, 100, 200)
        assert clip_interval(scale, 2.0, 5.0) == ((120, 0), (150, 0))
        assert clip_interval(scale, -3.0, 99.0) == ((100, -1), (200, 1))

    def test_two_seeds_that_say_nothing_of_one_arm_do_not_hide_the_others(self):
        rows = [DifferenceRow("a", 0, 0.0, (-0.06, 0.06)), DifferenceRow("b", 1, 0.01, (-0.05, 0.07)),
                DifferenceRow("wide", 2, 0.15, (-1.7, 2.0))]  # fmt: skip
        root = drawn(differences_figure(rows, worse="worse", better="better"))
        assert max(map(abs, ticks(root))) < 30
        assert "outliers" not in root.get("aria-label").lower(), "its mean is on the scale"
        lines = {name: [one.tag for one in marked(row, "whisker")] for name, row in rows_of(root).items()}
        assert lines == {"a": ["line"] * 3, "b": ["line"] * 3, "wide": ["line", "polyline", "polyline"]}
        assert "[-170.00, +200.00]" in " ".join(rows_of(root)["wide"].itertext())

    def test_a_single_wide_interval_is_drawn_whole(self):
        root = drawn(differences_figure([DifferenceRow("a", 0, 0.01, (-0.9, 0.92))], worse="worse", better="better"))
        assert [one.tag for one in marked(root, "whisker")] == ["line"] * 3

    def test_a_band_is_one_standard_deviation_and_drawn_whole(self):
        near = [arm(str(i), 0.900, 0.901, 0.902, 0.901) for i in range(4)]
        root = drawn(accuracies_figure([*near, arm("wide", 0.89, 0.905)]))
        assert not marked(root, "whisker")
        assert "± 1.06" in " ".join(rows_of(root)["wide"].itertext())


class TestAccuracies:
    def test_the_others_have_the_scale_that_they_would_have_alone(self):
        arms = usual()
        root, near = drawn(accuracies_figure(arms)), [one for one in arms if one.name != SHUFFLED]
        assert ticks(root) == ticks(drawn(accuracies_figure(near)))
        row = rows_of(root)[SHUFFLED]
        said = " ".join(row.itertext())
        assert "← off scale" in said
        assert "30.50 %" in said, "its number stands beside it"
        assert "30.50 %" in next(row.iter("title")).text
        assert not marked(row, "seed")
        assert not marked(row, "band")
        assert root.get("aria-label").endswith(f"Outliers beyond the scale: {SHUFFLED}.")

    def test_the_order_is_kept_and_all_far_ones_are_named(self):
        arms = usual(worse=(0.1, 0.11), better=(0.885, 0.886), fine=(0.87, 0.873))
        root = drawn(accuracies_figure(arms))
        assert list(rows_of(root)) == [one.name for one in arms]
        assert [name for name, row in rows_of(root).items() if "off scale" in " ".join(row.itertext())] == [
            SHUFFLED, "worse"]  # fmt: skip
        assert f"beyond the scale: {SHUFFLED}, worse." in root.get("aria-label")

    def test_whom_the_figure_is_about_stays(self):
        root = drawn(accuracies_figure(usual(), pinned=["student alone", SHUFFLED]))
        assert "off scale" not in ElementTree.tostring(root, encoding="unicode")
        assert min(ticks(root)) <= 40

    @pytest.mark.parametrize("values", [[(0.9,)], [(0.9, 0.91), (0.1, 0.12)], [(0.5, 0.5)] * 5, [(0.9,), (), (0.1,)]])
    def test_few_or_equal_or_unknown_arms_are_all_on_the_scale(self, values):
        arms = [arm(str(i), *one) for i, one in enumerate(values)]
        root = drawn(accuracies_figure(arms))
        assert "off scale" not in ElementTree.tostring(root, encoding="unicode").lower()
        assert len(marked(root, "seed")) == sum(map(len, values))
        at = [float(one.get("x1")) for one in marked(root, "mean")]
        assert all(220 <= x <= 960 - 190 for x in at)

    def test_an_arm_with_a_value_that_is_no_number_is_named_and_does_not_move_the_others(self):
        broken = ArmRow("broken", "method", 1, read_stat({"values": [0.2, None]}), read_stat(None), {})
        root = drawn(accuracies_figure([*usual(), broken]))
        assert "not a number for every seed" in " ".join(rows_of(root)["broken"].itertext())
        assert "off scale" in " ".join(rows_of(root)[SHUFFLED].itertext())


class TestPareto:
    def points(self, *more):
        named = (("teacher", 5.0, 0.91), ("student alone", 1.0, 0.865), ("hinton", 1.01, 0.885), (SHUFFLED, 1.0, 0.30))
        return [CostPoint(name, i, cost, accuracy, 0.004) for i, (name, cost, accuracy) in enumerate((*named, *more))]

    def test_the_scale_is_the_others(self):
        points = self.points()
        root = drawn(pareto_figure(points, x_label="ms", text=str))
        near = drawn(pareto_figure([p for p in points if p.name != SHUFFLED], x_label="ms", text=str))
        assert ticks(root) == ticks(near)
        names = [one.text for one in marked(root, "name")]
        assert f"{SHUFFLED} ↓ 30.0 %" in names
        assert len(names) == 4
        assert root.get("aria-label").endswith(f"Outliers beyond the scale: {SHUFFLED} 30.00 %.")

    def test_it_stands_inside_the_frame_below_all_others(self):
        root = drawn(pareto_figure(self.points(), x_label="ms", text=str))
        heights = {next(one.iter("title")).text.split(":")[0]: _height(one) for one in marked(root, "mark")}
        assert heights[SHUFFLED] == max(heights.values())
        assert heights[SHUFFLED] < 340 - 58
        assert heights["teacher"] < heights["hinton"] < heights["student alone"] < heights[SHUFFLED]

    def test_no_model_on_the_front_is_moved(self):
        """The cheapest is on the front however bad it is, and so is the best."""
        points = self.points(("tiny", 0.01, 0.1))
        assert "tiny" in [p.name for p in pareto_front(points)]
        root = drawn(pareto_figure(points, x_label="ms", text=str))
        assert "outliers" not in root.get("aria-label").lower()

    @pytest.mark.parametrize("count", [1, 2, 3, 4])
    def test_any_number_of_them_even_equal_ones(self, count):
        points = [CostPoint(str(i), i, 1.0, 0.5, None) for i in range(count)]
        root = drawn(pareto_figure(points, x_label="ms", text=str))
        assert len(marked(root, "mark")) == count
        assert not marked(root, "whisker")


def _height(mark):
    if mark.get("cy"):
        return float(mark.get("cy"))
    heights = [float(pair.split(",")[1]) for pair in mark.get("points").split()]
    return (min(heights) + max(heights)) / 2


class TestDifferences:
    def test_zero_is_always_on_the_scale(self):
        for means in itertools.product((0.3, 0.31, -0.002, 0.001), repeat=3):
            rows = [DifferenceRow(str(i), i, mean, (mean - 0.001, mean + 0.001)) for i, mean in enumerate(means)]
            root = drawn(differences_figure(rows, worse="worse", better="better"))
            zero = float(marked(root, "zero")[0].get("x1"))
            assert 220 <= zero <= 960 - 190

    def test_on_the_side_where_it_lies(self):
        near = [DifferenceRow("a", 0, 0.002, (0.001, 0.003)), DifferenceRow("b", 1, -0.001, None)]
        for mean, said in ((-0.5, "← off scale"), (0.5, "off scale →")):
            far = DifferenceRow("c", 2, mean, (mean - 0.01, mean + 0.01))
            root = drawn(differences_figure([*near, far], worse="worse", better="better"))
            assert said in " ".join(rows_of(root)["c"].itertext())
            assert f"{100 * mean:+.2f}" in " ".join(rows_of(root)["c"].itertext())
            assert root.get("aria-label").endswith("Outliers beyond the scale: c.")


@pytest.mark.parametrize("layout", [WIDE, NARROW], ids=["wide", "narrow"])
def test_no_vertical_line_runs_through_the_words_of_a_row(layout):
    near = [DifferenceRow(f"over arm {i}", 0, 0.001 * i, (-0.01, 0.01)) for i in range(3)]
    rows = [near[0], DifferenceRow("over one far off", 1, 0.9, (0.88, 0.92)), *near[1:]]
    root = drawn(differences_figure(rows, worse="worse", better="better", layout=layout))
    lines = [one for one in root.iter() if one.get("class") in ("zero", "grid")]
    assert lines
    texts = [one for group in root.iter() if str(group.get("class")).startswith("arm ") for one in group.iter()
             if one.tag.endswith("text") and (layout is NARROW or one.get("class") == "axis")]  # fmt: skip
    assert texts
    for text in texts:
        base = float(text.get("y"))
        for line in lines:
            assert float(line.get("y2")) <= base - 10 or float(line.get("y1")) >= base + 3
