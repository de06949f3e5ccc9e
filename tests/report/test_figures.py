"""Do the figures stand where the numbers say, and say the numbers in words?"""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from xml.etree import ElementTree

import numpy as np
import pytest

from limbeck.report.arms import ArmRow, read_stat
from limbeck.report.axes import AxisScale, log_limits, padded_limits, steps
from limbeck.report.figures import (
    Bin,
    ClassRow,
    CostPoint,
    DifferenceRow,
    SearchedArm,
    accuracies_figure,
    change_figure,
    classes_figure,
    confusion_figure,
    deviation_figure,
    differences_figure,
    pareto_figure,
    pareto_front,
    reliability_figure,
    search_figure,
    training_figure,
    trials_below,
)
from limbeck.report.figures.classes import MOST, select_rows, top_confusions
from limbeck.report.markup import Markup, join, png, tag
from limbeck.report.numbers import sized

NASTY = "<script>alert(1)</script>&\"'\x00\ud800"


def drawn(markup):
    return ElementTree.fromstring(markup)


def classes_of(root, word):
    return [one for one in root.iter() if word in one.get("class", "").split()]


def arm(name, values, style=0, role="method"):
    return ArmRow(name, role, style, read_stat({"values": values}), read_stat(None), {})


def every_figure(name):
    bins = [Bin(0.3, 0.2, 0.5), Bin(0.9, 0.95, 0.5)]
    rates = np.array([[0.9, 0.1], [0.2, 0.8]])
    return [
        differences_figure([DifferenceRow(name, 0, 0.01, (0.0, 0.02))], worse="worse", better="better"),
        accuracies_figure([arm(name, [0.8, 0.82])]),
        pareto_figure([CostPoint(name, 0, 0.1, 0.8, 0.01)], x_label=name, text=str),
        reliability_figure({name: (0, bins)}),
        deviation_figure([0.0, 1.0], [0.5, 1.5], [True, False], line=(1.0, 0.5)),
        classes_figure([ClassRow(name, 0.5, 0.6, 10, True, 0.01, 0.02)], before=1, after=0),
        confusion_figure(rates, [name, "b"], top=0.2, who=name),
        change_figure(rates - 0.5, [name, "b"], top=0.2),
        training_figure(name, {name: arm(name, [0.5])}, {name: [[(1.0, 1.0), (2.0, 0.5)]]}),
        search_figure({name: SearchedArm(0, [0.5, 0.6], [0.5, 0.6], 1)}, luck=0.01),
    ]  # fmt: skip


def test_no_name_becomes_markup():
    for markup in every_figure(NASTY):
        root = drawn(markup)
        assert not [one for one in root.iter() if one.tag == "script"]
        assert root.get("role") == "img"
        assert len(root.get("aria-label")) > 20


def test_one_difference_that_is_far_off_does_not_hide_the_others():
    near = [DifferenceRow("a", 0, 0.002, (0.001, 0.003)), DifferenceRow("b", 1, -0.001, (-0.002, 0.0))]

    def ticks(rows):
        root = drawn(differences_figure(rows, worse="worse", better="better"))
        return [float(one.text) for one in classes_of(root, "tick")], root

    wanted, _ = ticks(near)
    found, root = ticks([*near, DifferenceRow("shuffled", 2, 0.7, (0.69, 0.71))])
    assert found == wanted
    shown = ElementTree.tostring(root, encoding="unicode")
    assert "+70.00" in shown, "its number stands beside it"
    assert shown.count("off scale →") == 1
    assert len(classes_of(root, "mark")) == 2
    beside, _ = ticks([*near, DifferenceRow("c", 2, 0.01, (0.009, 0.011))])
    assert max(beside) >= 1.0, "what is not far off is on the scale"


def test_markup_is_escaped_once():
    assert tag("p", "a<b", Markup("<b>c</b>"), None, ["d", 1], title='"&', data_x=True, y=None, z=1.0) == (
        '<p title="&quot;&amp;" data-x z="1.00">a&lt;b<b>c</b>d1</p>'
    )
    assert tag("br") == "<br>"
    assert join("&", tag("i", "&")) == "&amp;<i>&amp;</i>"
    assert tag("p", "a\x00\ud800b") == "<p>a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}b</p>"
    assert tag("p", "a\u202eb\u2066") == "<p>a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}</p>"
    assert tag("p", "שלום") == "<p>שלום</p>"


def test_whiskers_end_where_the_interval_does():
    rows = [DifferenceRow("a", 0, 0.01, (0.0, 0.02)), DifferenceRow("b", 1, -0.02, None)]
    root = drawn(differences_figure(rows, worse="worse", better="better"))
    zero = float(classes_of(root, "zero")[0].get("x1"))
    low, high = sorted(float(classes_of(root, "whisker")[0].get(end)) for end in ("x1", "x2"))
    assert low == pytest.approx(zero, abs=0.02)
    assert len(classes_of(root, "whisker")) == 3
    assert len(classes_of(root, "mark")) == 2
    assert high > zero
    assert "one seed" in root.get("aria-label")


def test_the_front_is_what_nothing_beats():
    named = (("cheap", 1.0, 0.8), ("same", 1.04, 0.79), ("dear", 5.0, 0.9), ("bad", 6.0, 0.85))
    cheap, same, dear, bad = (CostPoint(name, 0, cost, accuracy, None) for name, cost, accuracy in named)
    assert [point.name for point in pareto_front([bad, dear, same, cheap])] == ["cheap", "dear"]
    assert pareto_front([cheap, cheap._replace(name="twin")]) != []
    root = drawn(pareto_figure([bad, dear, same, cheap], x_label="ms", text=str))
    assert len(classes_of(root, "best")) == 2
    assert len(classes_of(root, "mark")) == 4
    places = [polygon.get("points") for polygon in classes_of(root, "mark")]
    assert len(set(places)) == 4, "models of one cost stand side by side"


def test_brute_force_of_the_front():
    draw = np.random.default_rng(0)
    points = [CostPoint(str(i), 0, float(10 ** draw.uniform(-2, 2)), float(draw.uniform()), None) for i in range(60)]
    kept = pareto_front(points)
    for point in points:
        beaten = any(o.accuracy > point.accuracy and o.cost <= 1.05 * point.cost for o in points)
        assert (point in kept) == (not beaten)


@pytest.mark.parametrize("values", [[0.0], [1.0], [0.5, 0.5], [float("nan")], [], [1e-9, 1e9], [-3.0, 2.0]])
def test_a_scale_holds_its_values(values):
    low, high = padded_limits(values)
    assert low < high
    assert all(low <= value <= high for value in values if value == value)
    assert 2 <= len(steps(low, high)) <= 7
    first, last = log_limits([abs(v) + 1e-6 for v in values])
    scale = AxisScale(first, last, 0, 100, logarithmic=True)
    assert all(-6 < scale(abs(v) + 1e-6) < 106 for v in values if v == v)


def test_only_the_classes_that_change_most_are_drawn():
    rows = [ClassRow(str(i), 0.5, 0.5 + i / 1000, 10, i == 99, 0.5, 0.5) for i in range(100)]
    shown = select_rows(rows)
    assert len(shown) == MOST
    assert [shown[0].name, shown[-1].name] == ["0", "99"]
    root = drawn(classes_figure(rows, before=1, after=0))
    assert len(classes_of(root, "class")) == MOST
    assert len(classes_of(root, "sure")) == 1


def test_confusion_shades_errors_alone():
    rates = np.array([[0.9, 0.1, 0.0], [0.0, 1.0, 0.0], [0.2, 0.0, 0.8]])
    root = drawn(confusion_figure(rates, "abc", top=0.2, who="x"))
    cells = classes_of(root, "cell")
    assert len(cells) == 9
    assert [float(cell.get("fill-opacity", -1)) for cell in cells] == [-1, 0.5, 0, 0, -1, 0, 1, 0, -1]
    assert top_confusions(rates, 5) == [(2, 0), (0, 1)]


def test_many_classes_become_one_picture():
    rates = np.eye(100)
    rates[3, 7] = 0.5
    for markup in (confusion_figure(rates, [str(i) for i in range(100)], top=0.5, who="x"),
                   change_figure(rates - np.eye(100), [str(i) for i in range(100)], top=0.5)):  # fmt: skip
        assert len(markup) < 6000
        assert len(list(drawn(markup).iter("image"))) == 1


def searched(style, *accuracies):
    best = [max(accuracies[: i + 1]) for i in range(len(accuracies))]
    return SearchedArm(style, accuracies, best, accuracies.index(max(accuracies)))


def test_a_search_has_a_staircase_for_each_arm_and_a_large_mark_at_what_was_chosen():
    arms = {"alone": searched(2, 0.80, 0.70, 0.83, 0.83), "hinton": searched(0, 0.81, 0.85, 0.84, 0.82)}
    root = drawn(search_figure(arms, luck=0.01))
    stairs = [line.get("points").split() for line in classes_of(root, "strong")]
    assert [len(points) for points in stairs] == [8, 8]
    for points in stairs:
        places = [tuple(map(float, point.split(","))) for point in points]
        assert all(a <= b for (a, _), (b, _) in itertools.pairwise(places)), "time goes on"
        assert all(a >= b for (_, a), (_, b) in itertools.pairwise(places)), "the best so far never falls"
    assert [next(one.iter("title")).text for one in classes_of(root, "best")] == [
        "alone: 83.00 % in trial 3", "hinton: 85.00 % in trial 2"]  # fmt: skip
    assert trials_below(arms) == (1, 70.0)
    assert len(classes_of(root, "seed")) == 7, "one trial lies below the figure"
    assert "alone from 80.00 % to 83.00 %, reached in trial 3 of 4" in root.get("aria-label")
    (band,) = classes_of(root, "luck")
    top = min(float(point.split(",")[1]) for point in stairs[1])
    assert float(band.get("y")) == pytest.approx(top, abs=0.1)


@pytest.mark.parametrize("arms", [{"a": (0.5,)}, {"a": (0.9, 0.9, 0.9), "b": (0.9, 0.9, 0.9)}, {"a": (0.0,) * 4},
                                  {"a": (0.1, 0.9, 0.91, 0.92), "b": (0.9, 0.91, 0.9, 0.92)}])  # fmt: skip
def test_any_search_is_inside_its_frame(arms):
    found = {name: searched(0, *values) for name, values in arms.items()}
    root = drawn(search_figure(found, luck=0.02))
    for line in classes_of(root, "strong"):
        heights = [float(point.split(",")[1]) for point in line.get("points").split()]
        assert all(40 - 0.1 <= height <= 330 - 58 + 0.1 for height in heights)
    assert len(classes_of(root, "best")) == len(arms)
    if len(arms) == 2 and 0.1 in arms["a"]:
        assert min(float(one.text) for one in classes_of(root, "tick") if float(one.text) > 10) > 85
        assert trials_below(found) == (1, 10.0)


def test_dots_beyond_the_edge_are_held_at_it():
    root = drawn(deviation_figure([1e9, -1e9, 0.0], [1e9, 0.0, -1e9], [True] * 3, line=None))
    for dot in classes_of(root, "dot"):
        assert 0 < float(dot.get("cx")) < 520
        assert 0 < float(dot.get("cy")) < 380
    assert len(classes_of(drawn(deviation_figure([0.1] * 5000, [0.2] * 5000, [True] * 5000, line=None)), "dot")) <= 700


def test_a_png_is_what_a_reader_of_pngs_reads():
    image = pytest.importorskip("PIL.Image", reason="Pillow, which reads the picture back, is not installed.")
    draw = np.random.default_rng(0)
    for shape in ((5, 7), (5, 7, 3), (5, 7, 4), (1, 1)):
        pixels = draw.integers(0, 256, shape).astype(np.uint8)
        assert np.array_equal(np.asarray(image.open(io.BytesIO(png(pixels)))), pixels)
    assert struct.unpack(">I", png(np.zeros((1, 1), np.uint8))[29:33])[0] == zlib.crc32(
        png(np.zeros((1, 1), np.uint8))[12:29]
    )


def test_numbers_keep_three_digits():
    assert [sized(v) for v in (0.0123456, 1.0, 999.6, 12345.0, 1e-7)] == ["0.0123", "1.00", "1,000", "12,345", "1e-07"]
