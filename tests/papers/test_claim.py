"""Claims: intervals, Holm's correction, and words."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from limbeck.errors import LimbeckError
from limbeck.papers.claim import Claim, Figure, choose_word, correlate, judge_claims
from limbeck.report.paper_results import claim_cells, claims_note

ACCURACY = Figure("accuracy", "accuracy", "%")
LOSS = Figure("loss", "loss", "nats", lower_is_better=True)


def column_of(**arms):
    return lambda arm, _: list(arms[arm])


def judge_one(claim, **arms):
    (found,) = judge_claims([claim], column_of(**arms))
    return found


KD, ALONE = (90.0, 91.5, 90.7, 91.1, 90.2), (88.0, 88.9, 89.5, 88.3, 88.8)


def test_a_difference_has_the_interval_of_a_paired_t_test():
    found = judge_one(Claim.of_difference("kd", "alone", ACCURACY), kd=KD, alone=ALONE)
    truth = stats.ttest_rel(KD, ALONE).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((truth.low, truth.high))
    assert (found.word, found.unit, found.seeds) == ("shown", "points", 5)


@pytest.mark.parametrize(("margin", "word"), [(0.0, "shown"), (1.5, "not shown"), (4.0, "opposite"), (-1.0, "shown")])
def test_the_margin_moves_the_bound(margin, word):
    assert judge_one(Claim.of_difference("kd", "alone", ACCURACY, margin=margin), kd=KD, alone=ALONE).word == word


def test_where_lower_is_better_the_sign_changes():
    claim = Claim.of_difference("alone", "kd", LOSS)
    assert judge_one(claim, kd=KD, alone=ALONE).word == "shown"
    swapped = judge_one(Claim.of_difference("kd", "alone", LOSS), kd=KD, alone=ALONE)
    assert swapped.word == "opposite"
    assert swapped.mean == pytest.approx(-np.subtract(KD, ALONE).mean())


def test_equality_is_within_a_margin():
    for margin, word in ((0.05, "opposite"), (2.0, "not shown"), (5.0, "shown")):
        assert judge_one(Claim.of_equality("kd", "alone", ACCURACY, margin=margin), kd=KD, alone=ALONE).word == word


def test_a_trend_is_the_rank_correlation_of_each_seed():
    arms = {"a": (1.0, 1.0, 3.0), "b": (2.0, 3.0, 2.0), "c": (9.0, 2.0, 1.0)}
    found = judge_one(Claim.of_trend(list(arms), ACCURACY), **arms)
    assert found.values == pytest.approx(
        [stats.spearmanr(range(3), row)[0] for row in zip(*arms.values(), strict=True)]
    )
    down = judge_one(Claim.of_trend(list(arms), ACCURACY, increases=False), **arms)
    assert down.values == pytest.approx([-value for value in found.values])


def test_figures_are_correlated_over_arms():
    rng = np.random.default_rng(0)
    numbers = {(arm, key): rng.normal(size=4) for arm in "abcd" for key in ("accuracy", "loss")}
    claim = Claim.of_correlation("abcd", ACCURACY, LOSS, positive=False)
    (found,) = judge_claims([claim], lambda arm, key: list(numbers[arm, key]))
    for seed, value in enumerate(found.values):
        x, y = ([numbers[arm, key][seed] for arm in "abcd"] for key in ("accuracy", "loss"))
        assert value == pytest.approx(-np.corrcoef(x, y)[0, 1])


def test_ranks_have_the_mean_of_ties_and_a_constant_has_no_correlation():
    x, y = [1.0, 2.0, 2.0, 5.0, 0.0], [3.0, 3.0, 1.0, 4.0, 0.0]
    assert correlate(x, y, ranks=True) == pytest.approx(stats.spearmanr(x, y)[0])
    assert correlate([1.0, 2.0], [3.0, 3.0]) == 0.0


def brute_force_holm(p_values, level=0.05):
    """The rejected hypotheses of Holm's procedure, from its definition."""
    rejected, order = set(), sorted(range(len(p_values)), key=lambda i: p_values[i])
    for place, at in enumerate(order):
        if p_values[at] >= level / (len(p_values) - place):
            break
        rejected.add(at)
    return rejected


@pytest.mark.parametrize("seed", range(8))
def test_words_are_holms_decisions(seed):
    rng = np.random.default_rng(seed)
    arms = {f"a{i}": 90 + rng.normal(size=5) + shift for i, shift in enumerate((0.0, 0.8, 1.5, 3.0, -2.5))}
    arms["kd"] = 90 + rng.normal(size=5)
    claims = [Claim.of_difference(f"a{i}", "kd", ACCURACY) for i in range(5)]
    p_values = [stats.ttest_rel(arms[f"a{i}"], arms["kd"]).pvalue for i in range(5)]
    found = judge_claims(claims, column_of(**arms))
    assert {i for i, one in enumerate(found) if one.word != "not shown"} == brute_force_holm(p_values)
    assert all((one.mean > 0) == (one.word == "shown") for one in found if one.word != "not shown")


def test_more_claims_make_wider_intervals():
    claim = Claim.of_difference("kd", "alone", ACCURACY)
    alone = judge_one(claim, kd=KD, alone=ALONE)
    among = judge_claims([claim] * 4, column_of(kd=KD, alone=ALONE))
    # The first of four has the correction for four, and the last of them none.
    assert sorted(one.comparisons for one in among) == [1, 2, 3, 4]
    widest = max(one.high - one.low for one in among)
    assert widest > alone.high - alone.low
    assert sorted(one.high - one.low for one in among)[0] == pytest.approx(alone.high - alone.low)


def test_one_seed_shows_nothing():
    found = judge_one(Claim.of_difference("kd", "alone", ACCURACY), kd=[90.0], alone=[80.0])
    assert (found.word, found.low, found.mean) == ("not shown", None, 10.0)


def test_equal_differences_of_rounded_numbers_have_a_width():
    rounded = ACCURACY._replace(resolution=0.5)
    kd, alone = [90.0] * 5, [89.5] * 5
    assert judge_one(Claim.of_difference("kd", "alone", ACCURACY), kd=kd, alone=alone).low == 0.5
    assert judge_one(Claim.of_difference("kd", "alone", rounded), kd=kd, alone=alone).low < 0.5


def test_a_number_that_is_not_finite_is_refused():
    with pytest.raises(LimbeckError, match="inf"):
        judge_one(Claim.of_difference("kd", "alone", ACCURACY), kd=[math.inf, 1.0], alone=[1.0, 1.0])


def test_json_has_no_infinite_bound():
    found = judge_one(Claim.of_difference("kd", "alone", ACCURACY), kd=KD, alone=ALONE).as_json()
    assert found["bounds"] == [0.0, None]
    assert found["values"] == pytest.approx(list(np.subtract(KD, ALONE)))


@pytest.mark.parametrize(
    ("low", "high", "bounds", "word"),
    [
        (0.1, 1.0, (0.0, math.inf), "shown"),
        (0.0, 1.0, (0.0, math.inf), "not shown"),
        (-2.0, -1.0, (-1.5, 1.5), "not shown"),
        (2.0, 3.0, (-1.5, 1.5), "opposite"),
    ],
)
def test_the_word_of_an_interval(low, high, bounds, word):
    assert choose_word(low, high, bounds) == word


def test_a_trend_of_two_arms_is_not_shown_by_a_few_seeds_that_agree():
    """Of two arms one is above the other in each seed: two seeds agree by chance every second time."""
    arms = {"a": [1.0, 2.0], "b": [3.0, 4.0]}
    assert judge_one(Claim.of_trend(["a", "b"], LOSS), **arms).word == "not shown"
    three = {"a": [1.0] * 5, "b": [2.0] * 5, "c": [3.0] * 5}
    assert judge_one(Claim.of_trend(list(three), LOSS), **three).word == "shown"


def test_too_few_arms_have_no_trend_and_no_correlation():
    with pytest.raises(LimbeckError):
        Claim.of_trend(["a"], LOSS)
    with pytest.raises(LimbeckError):
        Claim.of_correlation(["a", "b"], LOSS, ACCURACY)


def test_a_table_says_that_lower_is_better():
    claim = Claim.of_difference("kd", "alone", LOSS)
    lower, higher = {"kd": [0.244, 0.25], "alone": [0.466, 0.47]}, {"kd": [0.5, 0.6], "alone": [0.4, 0.4]}
    assert claim_cells(judge_one(claim, **lower).as_json())[2] == "+0.221 nats (lower: better)"
    assert claim_cells(judge_one(claim, **higher).as_json())[2] == "-0.150 nats (higher: worse)"
    accuracy = judge_one(Claim.of_difference("kd", "alone", ACCURACY), **lower).as_json()
    assert claim_cells(accuracy)[2] == "-0.22 points"


def test_the_words_are_explained_and_so_are_few_seeds():
    claim = Claim.of_difference("kd", "alone", ACCURACY)
    few = [judge_one(claim, kd=[90.0, 99.0], alone=[89.0, 89.0]).as_json()]
    many = [judge_one(claim, kd=KD, alone=ALONE).as_json()]
    assert all(word in claims_note(many) for word in ("shown", "not shown", "opposite"))
    assert "--seeds" in claims_note(few)
    assert "--seeds" not in claims_note(many)


def test_the_step_of_an_accuracy_is_that_of_the_test_examples_it_was_measured_on():
    figure = ACCURACY._replace(resolution=0.05, examples="n")
    claim = Claim.of_difference("kd", "alone", figure)
    words = {}
    for count in (2000, 100):
        numbers = {
            "accuracy": {"kd": [90.0] * 5, "alone": [88.0] * 5},
            "n": dict.fromkeys(("kd", "alone"), [count] * 5),
        }
        (words[count],) = judge_claims([claim], lambda arm, key, numbers=numbers: numbers[key][arm])
    assert words[100].high - words[100].low > 10 * (words[2000].high - words[2000].low)
    (without,) = judge_claims([claim], lambda arm, key: {"accuracy": {"kd": [90.0] * 5, "alone": [88.0] * 5}}[key][arm])
    assert without.low == words[2000].low
