"""The sentence of the verdict agrees with its numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from limbeck.compare import compare_with_baseline, compare_with_control

ALONE = [0.930, 0.940, 0.935]


def moved(*gains):
    return [value + gain for value, gain in zip(ALONE, gains, strict=True)]


def test_it_helped():
    verdict = compare_with_baseline(moved(0.02, 0.021, 0.019), ALONE)
    assert verdict.helps is True
    assert verdict.sentence.startswith(
        "Distilling helped: +2.00 points of accuracy over the same student trained alone"
    )
    assert (
        "(95 % interval +1.75 to +2.25, 3 paired seeds, with the sampling of test examples left out)."
        in verdict.sentence
    )


def test_it_hurt():
    verdict = compare_with_baseline(moved(-0.02, -0.021, -0.019), ALONE)
    assert verdict.helps is False
    assert verdict.sentence.startswith("Not worth it: -2.00 points of accuracy")


def test_it_is_unclear():
    verdict = compare_with_baseline(moved(0.02, -0.02, 0.01), ALONE)
    assert verdict.helps is False
    assert verdict.interval[0] < 0 < verdict.interval[1]
    assert verdict.sentence.startswith("Not shown to help: +0.33 points")
    assert verdict.sentence.endswith("and zero lies inside it.")


def test_all_equal_is_unclear():
    verdict = compare_with_baseline(ALONE, ALONE)
    assert verdict.difference == 0
    assert verdict.interval == (0, 0)
    assert verdict.helps is False
    assert "+0.00 points" in verdict.sentence
    assert "Not shown to help" in verdict.sentence
    assert "worth" not in verdict.sentence


def test_one_seed_gives_no_verdict():
    verdict = compare_with_baseline([0.95], [0.93])
    assert verdict.interval is None
    assert verdict.helps is None
    assert verdict.sentence.startswith("Unknown. One seed gives +2.00 points")
    assert "--seeds 5" in verdict.sentence


@pytest.mark.parametrize(
    ("gains", "said", "better"),
    [
        ((0.02, 0.021, 0.019), "It beats label smoothing, which needs no teacher, by 2.00 points (95 % ", True),
        ((-0.02, -0.021, -0.019), "But label smoothing, which needs no teacher, beats it by 2.00 points (95 % ", False),
        ((0.02, -0.02, 0.01), "No clear difference to label smoothing, which needs no teacher: +0.33 points (", False),
    ],
)
def test_a_control_that_needs_no_teacher_is_compare_with_control(gains, said, better):
    verdict = compare_with_control(moved(*gains), ALONE, name="label smoothing")
    assert verdict.sentence.startswith(said)
    assert verdict.helps is better


def test_one_seed_beside_a_control():
    verdict = compare_with_control([0.95], [0.93], name="label smoothing")
    assert verdict.helps is None
    assert "unknown; one seed gives +2.00 points" in verdict.sentence


@pytest.mark.parametrize("ours", [[0.95], moved(0.02, 0.021, 0.019)])
def test_it_is_json(ours):
    found = compare_with_baseline(ours, ALONE[: len(ours)]).as_dict()
    assert list(found) == ["difference", "interval", "helps", "sentence", "p", "covers", "comparisons", "examples"]
    assert json.loads(json.dumps(found)) == found


def right(*shares, examples=1000):
    """Which of the examples are right with each seed, the first ones so many."""
    return np.stack([np.arange(examples) < round(share * examples) for share in shares])


def test_which_examples_were_right_explains_how_sure_it_is_of_other_examples():
    shares = moved(0.02, 0.021, 0.019)
    verdict = compare_with_baseline(right(*shares), right(*ALONE))
    known = compare_with_baseline(shares, ALONE)
    assert verdict.difference == pytest.approx(known.difference)
    assert verdict.interval[0] < known.interval[0] < known.interval[1] < verdict.interval[1]
    assert "3 paired seeds and 1,000 test examples)." in verdict.sentence
    assert verdict.covers == "seeds and test examples"
    assert compare_with_baseline(shares, ALONE, examples=1000).interval[0] < verdict.interval[0], (
        "what is not known is allowed for"
    )
    mixed = compare_with_baseline(right(*shares), ALONE, examples=1000)
    assert mixed.interval == pytest.approx(compare_with_baseline(shares, ALONE, examples=1000).interval)


def test_the_best_of_several_has_a_wider_interval_and_reports_it():
    shares = moved(0.02, 0.021, 0.019)
    one, ten = (compare_with_baseline(right(*shares), right(*ALONE), comparisons=count) for count in (1, 10))
    assert ten.interval[0] < one.interval[0]
    assert ten.p == pytest.approx(10 * one.p)
    assert "for the best of 10 methods" in ten.sentence


def test_one_test_example_has_no_interval():
    verdict = compare_with_baseline(np.ones((3, 1)), np.zeros((3, 1)))
    assert verdict.helps is None
    assert verdict.sentence.startswith("Unknown. One test example gives +100.00 points")
