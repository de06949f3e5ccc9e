"""Does the verdict find what was planted, and nothing where nothing was?

A simulated student has a true accuracy: its arm's, moved by the luck of its seed (0.3 points). All students answer the
same 10,000 test examples, drawn anew for each simulation: some every one of them gets right, some none, and on the
others they differ by chance. So what the test set does to an arm it does to the other too.
"""

from __future__ import annotations

import numpy as np
import pytest

from limbeck.compare import judge

EXAMPLES = 10_000
SEED_NOISE = 0.003
SIMULATIONS = 2000
EASY, HARD = 0.88, 0.04
"""Of the usual test set: examples that every student gets right, and that none does."""


def answered(true: np.ndarray, *, easy: float, hard: float, draw: np.random.Generator) -> np.ndarray:
    """Accuracies, ``[simulations, arms, seeds]``, on one test set for each simulation."""
    sets = draw.multinomial(EXAMPLES, [easy, hard, 1 - easy - hard], size=len(true))
    sure, unsure = sets[:, 0, None, None], sets[:, 2, None, None]
    chance = np.clip((true - easy) / (1 - easy - hard), 0, 1)
    return (sure + draw.binomial(unsure, chance)) / EXAMPLES


def verdicts(*, seeds: int, gain: float, simulations: int, easy: float = EASY, hard: float = HARD) -> list:
    """What `judge` says of two arms, again and again."""
    draw = np.random.default_rng([seeds, int(1e6 * gain) + 1, int(100 * easy)])
    true = 0.93 + np.array([gain, 0.0])[:, None] + draw.normal(0, SEED_NOISE, (simulations, 2, seeds))
    found = answered(true, easy=easy, hard=hard, draw=draw).tolist()
    return [judge(ours, theirs, examples=EXAMPLES) for ours, theirs in found]


def differ(found: list) -> float:
    return float(np.mean([one.interval[0] > 0 or one.interval[1] < 0 for one in found]))


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_identical_arms_are_seldom_called_different(seeds):
    found = verdicts(seeds=seeds, gain=0.0, simulations=SIMULATIONS)
    # Of 2,000 at 5 % each, 6.5 % is three standard errors above.
    assert differ(found) <= 0.065
    assert differ(found) >= 0.035, "an interval that never errs is too wide"
    assert np.mean([one.helps for one in found]) <= 0.04, "half of what is called different is called worse"


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_interval_holds_the_planted_gain(seeds):
    """Not only around zero: 95 % of intervals hold the truth."""
    found = verdicts(seeds=seeds, gain=0.01, simulations=SIMULATIONS)
    assert np.mean([one.interval[0] <= 0.01 <= one.interval[1] for one in found]) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(("easy", "hard"), [(EASY, HARD), (0.0, 0.0)])
def test_a_planted_point_is_found_at_five_seeds(easy, hard):
    """Also where no example is easy or hard, so that students err independently and the shared test set helps least."""
    found = verdicts(seeds=5, gain=0.01, simulations=SIMULATIONS, easy=easy, hard=hard)
    assert np.mean([one.helps for one in found]) >= 0.8
    assert np.mean([one.difference for one in found]) == pytest.approx(0.01, abs=3e-4)


def test_more_seeds_find_more():
    found = [np.mean([v.helps for v in verdicts(seeds=seeds, gain=0.005, simulations=500)]) for seeds in (3, 5, 10)]
    assert found == sorted(found)
    assert found[0] < 0.5 < found[2]


def test_pairs_are_what_the_shared_test_set_needs():
    """Arms that are alike on one test set: its luck is in the accuracy of each, and in no difference."""
    draw = np.random.default_rng(0)
    true = np.full((500, 2, 5), 0.93)
    found = answered(true, easy=EASY, hard=HARD, draw=draw)
    assert found.mean(2).std(0).min() > 2 * (found[:, 0] - found[:, 1]).mean(1).std()
