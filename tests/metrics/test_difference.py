"""Intervals of a difference have their stated coverage on unseen data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from limbeck.errors import LimbeckError
from limbeck.metrics import compare_accuracies, compare_scores, paired_difference


def answered(draw, *, seeds, examples, better=0.0, worse=0.0, moving=0.0, noise=0.0):
    """Right or wrong of two arms, ``[2, seeds, examples]``.

    On some examples one arm always wins, on some both toss coins that the luck of the seed has bent (a standard
    deviation of `noise` in accuracy), and on all others they agree.
    """
    kind, right = draw.random(examples), np.zeros((2, seeds, examples))
    right[0, :, kind < better] = 1
    right[1, :, (kind >= better) & (kind < better + worse)] = 1
    tossed = (kind >= better + worse) & (kind < better + worse + moving)
    chance = np.clip(0.5 + draw.normal(0, noise, (2, seeds, 1)) / max(moving, 1e-9), 0, 1)
    right[:, :, tossed] = draw.random((2, seeds, int(tossed.sum()))) < chance
    return right


def covered(truth, found):
    return float(np.mean([one.low <= truth <= one.high for one in found]))


ARMS = {
    "alike": {},
    "one wins a few": {"better": 0.01},
    "few differ": {"better": 0.004, "worse": 0.002},
    "seeds alone": {"moving": 0.3, "noise": 0.03},
    "both": {"better": 0.02, "worse": 0.01, "moving": 0.15, "noise": 0.003},
}


@pytest.mark.parametrize("arms", ARMS)
@pytest.mark.parametrize("seeds", [3, 20])
@pytest.mark.parametrize("examples", [300, 2000])
def test_it_covers_whatever_the_arms_differ_in(arms, seeds, examples):
    draw = np.random.default_rng([seeds, examples])
    about = ARMS[arms]
    found = [compare_scores(*answered(draw, seeds=seeds, examples=examples, **about), largest=1.0) for _ in range(150)]
    # 93 % less two standard errors of 150 simulations.
    assert covered(about.get("better", 0) - about.get("worse", 0), found) >= 0.89


def test_an_interval_over_seeds_alone_does_not_cover():
    """What the two-way interval is for: with more seeds it is ever surer of the luck of the test set."""
    draw = np.random.default_rng(0)
    right = [answered(draw, seeds=10, examples=1000, **ARMS["both"]) for _ in range(200)]
    of_seeds = [paired_difference(*one.mean(2).tolist(), resolution=1e-3, largest=1.0) for one in right]
    assert covered(0.01, of_seeds) < 0.8
    assert covered(0.01, [compare_scores(*one, largest=1.0) for one in right]) >= 0.93


def test_what_the_seeds_agree_on_is_a_paired_t_test_over_examples():
    """Where every seed says the same, seeds bring nothing new."""
    draw = np.random.default_rng(1)
    ours, theirs = draw.normal(1.0, 1, 5000), draw.normal(0.9, 1, 5000)
    found = compare_scores(np.tile(ours, (5, 1)), np.tile(theirs, (5, 1)))
    low, high = stats.ttest_rel(ours, theirs).confidence_interval()
    assert (found.mean, found.low, found.high) == pytest.approx(((ours - theirs).mean(), low, high), rel=0.02)
    assert found.p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue, rel=0.5)


def test_what_the_examples_agree_on_is_a_paired_t_test_over_seeds():
    ours, theirs = np.random.default_rng(2).normal(0, 1, (2, 5, 1)) + np.zeros((2, 5, 10_000))
    found = compare_scores(ours, theirs)
    test = stats.ttest_rel(ours[:, 0], theirs[:, 0])
    low, high = test.confidence_interval()
    assert (found.low, found.high, found.p) == pytest.approx((low, high, test.pvalue), rel=1e-3)


def test_squared_errors_and_shares_are_scores_too():
    draw = np.random.default_rng(3)
    hits = {"squared error": 0, "overlap": 0}
    for _ in range(200):
        hard = draw.gamma(2.0, 1.0, 400)
        errors = np.square(draw.normal(0, hard, (2, 4, 400)) * np.array([0.95, 1.0])[:, None, None])
        found = compare_scores(*errors)
        hits["squared error"] += found.low <= (0.95**2 - 1) * 6 <= found.high  # E[gamma(2)^2] = 6
        overlap = draw.beta(8, 2, 400) + np.array([0.01, 0.0])[:, None, None] + draw.normal(0, 0.02, (2, 4, 400))
        found = compare_scores(*overlap, largest=1.0)
        hits["overlap"] += found.low <= 0.01 <= found.high
    assert min(hits.values()) >= 0.92 * 200


def test_arms_that_answer_everything_alike_are_not_known_to_be_the_same():
    same = np.ones((5, 300))
    found = compare_scores(same, same, largest=1.0)
    assert found.mean == 0
    assert found.p == 1
    assert found.high == -found.low >= 3 / 300, "the rule of three"


def test_zero_lies_outside_exactly_where_p_is_small_at_every_number_of_comparisons():
    draw = np.random.default_rng(4)
    said = set()
    for _ in range(60):
        right = answered(draw, seeds=4, examples=500, better=0.03, worse=0.01, moving=0.1, noise=0.003)
        for comparisons in (1, 3, 10):
            found = compare_scores(*right, comparisons=comparisons, largest=1.0)
            assert (found.p < 0.05) == (found.low > 0 or found.high < 0)
            said.add((comparisons, found.p < 0.05))
    assert {(1, True), (1, False), (10, False)} <= said


def test_it_is_antisymmetric_bounded_and_takes_tensors():
    right = answered(np.random.default_rng(5), seeds=3, examples=40, better=0.2, moving=0.5)
    there = compare_scores(*right, largest=1.0)
    back = compare_scores(*(torch.from_numpy(arm).bool() for arm in right[::-1]), largest=1.0)
    assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low))
    two = compare_scores(right[0, :2, :3], right[1, :2, :3], largest=1.0)
    assert -1 <= two.low < two.high <= 1


@pytest.mark.parametrize("shape", [(1, 100), (5, 1)])
def test_one_seed_or_one_example_has_no_interval(shape):
    found = compare_scores(np.ones(shape), np.zeros(shape), largest=1.0)
    assert (found.mean, found.low, found.high, found.p) == (1.0, None, None, None)


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (np.ones(5), np.ones(5), r"\[5\]"),
        (np.ones((2, 3)), np.ones((3, 2)), r"\[2, 3\] and \[3, 2\]"),
        (np.ones((0, 3)), np.ones((0, 3)), r"\[0, 3\]"),
        (np.ones((2, 2)), np.array([[1.0, 1.0], [1.0, np.nan]]), r"theirs\[1, 1\] is nan"),
    ],
)
def test_what_is_no_score_for_each_seed_and_example_is_refused(ours, theirs, said):
    with pytest.raises(LimbeckError, match=said):
        compare_scores(ours, theirs)


def test_without_predictions_the_interval_allows_for_what_is_not_known():
    draw = np.random.default_rng(6)
    hits = 0
    for _ in range(100):
        right = answered(draw, seeds=10, examples=1000, **ARMS["both"])
        found = compare_accuracies(*right.mean(2).tolist(), examples=1000)
        known = compare_scores(*right, largest=1.0)
        assert found.high - found.low > known.high - known.low
        hits += found.low <= 0.01 <= found.high
    assert hits >= 95
    assert compare_accuracies([0.9], [0.8], examples=1000).low is None
    assert compare_accuracies([0.9, 0.91], [0.8, 0.83]) == paired_difference([0.9, 0.91], [0.8, 0.83], largest=1.0)
