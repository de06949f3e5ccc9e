"""Paired intervals have their stated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from limbeck.compare import paired_difference
from limbeck.compare.result import std_over_seeds
from limbeck.errors import LimbeckError
from limbeck.metrics import compare_scores, interval_parts


@pytest.mark.parametrize("pairs", [2, 3, 5, 10, 40])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_the_interval_is_students(pairs, confidence):
    draw = np.random.default_rng(pairs)
    ours, theirs = draw.normal(0.9, 0.02, pairs), draw.normal(0.89, 0.02, pairs)
    found = paired_difference(ours.tolist(), theirs.tolist(), confidence=confidence)
    low, high = stats.ttest_rel(ours, theirs).confidence_interval(confidence)
    assert (found.mean, found.low, found.high) == pytest.approx(((ours - theirs).mean(), low, high), rel=1e-12)
    assert found.pairs == pairs


def test_it_is_antisymmetric_and_moves_with_a_shift():
    ours, theirs = [0.91, 0.95, 0.93], [0.90, 0.92, 0.94]
    there, back = paired_difference(ours, theirs), paired_difference(theirs, ours)
    assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low))
    moved = paired_difference([value + 0.25 for value in ours], theirs)
    assert (moved.mean, moved.low, moved.high) == pytest.approx(tuple(v + 0.25 for v in there[:3]))


def test_pairs_matter():
    """Seeds that are hard for both arms tell nothing of their difference: it is taken seed by seed."""
    theirs = [0.70, 0.80, 0.90]
    ours = [value + gain for value, gain in zip(theirs, (0.010, 0.012, 0.011), strict=True)]
    assert paired_difference(ours, theirs).low > 0
    assert paired_difference(ours, theirs[::-1]).low < 0


@pytest.mark.parametrize("examples", [50, 200, 1000])
def test_rounding_makes_no_difference_sure(examples):
    """Two seeds whose differences are the same step: without the floor, 13 % of equal arms were called different."""
    assert called_different(2, gain=0.0, tests=2000, examples=examples)[0] <= 0.065
    step = 1 / examples
    found = paired_difference([0.5 + step] * 2, [0.5] * 2, resolution=step)
    assert found.low < 0 < found.mean
    wide = paired_difference([0.6, 0.7], [0.5, 0.5], resolution=step)
    assert wide == paired_difference([0.6, 0.7], [0.5, 0.5])


def test_one_pair_has_no_interval():
    found = paired_difference([0.9], [0.8])
    assert found.mean == pytest.approx(0.1)
    assert (found.low, found.high, found.pairs) == (None, None, 1)


def test_equal_differences_have_an_interval_of_no_width():
    found = paired_difference([0.75, 0.5], [0.5, 0.25])
    assert (found.mean, found.low, found.high) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([0.9], [0.9, 0.8]), ([0.9, 0.8], [0.9])])
def test_what_has_no_pairs_is_refused(ours, theirs):
    with pytest.raises(LimbeckError, match=f"{len(ours)} and {len(theirs)}"):
        paired_difference(ours, theirs)


def test_spread_is_the_sample_standard_deviation():
    values = np.random.default_rng(0).normal(size=7).tolist()
    assert std_over_seeds(values) == pytest.approx(np.std(values, ddof=1))
    assert std_over_seeds([0.4]) == 0


def called_different(pairs, *, gain, tests, examples=0):
    """How often the interval leaves zero out, and lies above it, for arms that share the luck of their seeds."""
    draw = np.random.default_rng(12)
    shared = draw.normal(0.93, 0.01, (tests, pairs, 1))
    values = shared + draw.normal(0, 0.004, (tests, pairs, 2))
    values[..., 0] += gain
    if examples:  # accuracy on so many test examples
        values = np.round(values * examples) / examples
    step = 1 / examples if examples else 0.0
    found = [
        paired_difference(ours.tolist(), theirs.tolist(), resolution=step)
        for ours, theirs in np.moveaxis(values, -1, 1)
    ]
    return np.mean([one.low > 0 or one.high < 0 for one in found]), np.mean([one.low > 0 for one in found])


@pytest.mark.parametrize("pairs", [3, 5, 10])
@pytest.mark.parametrize("examples", [0, 1000])
def test_equal_arms_are_seldom_called_different(pairs, examples):
    # Four standard errors above 5 % in 2,000 simulations are 7 %.
    different, helps = called_different(pairs, gain=0.0, tests=2000, examples=examples)
    assert different <= 0.065
    assert different >= 0.03, "an interval that never errs is too wide"
    assert helps <= 0.04


@pytest.mark.parametrize(("pairs", "power"), [(3, 0.6), (5, 0.98), (10, 1.0)])
def test_a_planted_gain_is_detected(pairs, power):
    different, helps = called_different(pairs, gain=0.015, tests=1000)
    assert helps >= power
    assert different == pytest.approx(helps, abs=0.001)


def test_a_planted_loss_is_no_help():
    different, helps = called_different(5, gain=-0.015, tests=500)
    assert different > 0.95
    assert helps == 0


def test_no_interval_of_fractions_goes_beyond_what_they_can_differ_by():
    ours, theirs = [0.9, 0.5], [0.4, 0.6]
    wide = paired_difference(ours, theirs)
    found = paired_difference(ours, theirs, largest=1.0)
    assert wide.low < -1 < 1 < wide.high
    assert (found.low, found.high, found.mean, found.p) == (-1.0, 1.0, wide.mean, wide.p)


@pytest.mark.parametrize("same", [True, False])
def test_the_parts_of_the_width_add_up_and_equal_seeds_have_none(same):
    draw = np.random.default_rng(0)
    ours, theirs = (draw.random((1 if same else 3, 25)).repeat(3 if same else 1, 0) < share for share in (0.8, 0.7))
    seeds, examples = interval_parts(ours, theirs)
    found = compare_scores(ours, theirs)
    assert np.hypot(seeds, examples) == pytest.approx((found.high - found.low) / 2, rel=1e-12)
    assert (seeds == 0) is same
