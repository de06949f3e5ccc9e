"""Limits hold their values, and only what lies far off is an outlier."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib import rcParams

from limbeck.report.axes import (
    COLORS,
    FAR,
    INK,
    MARKERS,
    axis_values,
    literal,
    log_limits,
    log_ticks,
    new_axes,
    outliers,
    padded_limits,
)


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


@pytest.mark.parametrize("values", [[0.0], [1.0], [0.5, 0.5], [float("nan")], [], [1e-9, 1e9], [-3.0, 2.0]])
def test_limits_hold_their_values(values):
    low, high = padded_limits(values)
    assert low < high
    assert all(low <= value <= high for value in values if value == value)
    first, last = log_limits([abs(v) + 1e-6 for v in values])
    assert all(first <= abs(v) + 1e-6 <= last for v in values if v == v)
    assert 1 <= len(log_ticks(first, last)) <= 20
    assert all(first <= tick <= last for tick in log_ticks(first, last))


def test_every_style_has_a_color_and_a_shape_of_its_own():
    assert len(set(COLORS)) == len(set(MARKERS)) == len(COLORS) == len(MARKERS)


def test_axes_leave_no_trace_in_pyplot_or_its_settings():
    before = dict(rcParams)
    ax = new_axes(None, height=100.0)
    assert plt.get_fignums() == []
    assert dict(rcParams) == before
    assert ax.xaxis.label.get_color() == INK
    assert new_axes(ax, height=3.0) is ax


def test_text_is_literal():
    """Dollars are no formulas, and control characters are replaced."""
    ax = new_axes(None, height=100.0)
    text = ax.text(0, 0, literal("a $x^2$ b\n\x00c"))
    ax.figure.canvas.draw()
    assert text.get_text() == "a \\$x^2\\$ b \N{REPLACEMENT CHARACTER}c"
    assert text._preprocess_math(text.get_text()) == ("a $x^2$ b \N{REPLACEMENT CHARACTER}c", False)
