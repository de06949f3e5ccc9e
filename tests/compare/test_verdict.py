"""Does the sentence say what the numbers say?"""

from __future__ import annotations

import json

import pytest

from limbeck.compare import judge, set_beside

ALONE = [0.930, 0.940, 0.935]


def moved(*gains):
    return [value + gain for value, gain in zip(ALONE, gains, strict=True)]


def test_it_helped():
    verdict = judge(moved(0.02, 0.021, 0.019), ALONE)
    assert verdict.helps is True
    assert verdict.sentence.startswith(
        "Distilling helped: +2.00 points of accuracy over the same student trained alone"
    )
    assert "(95 % interval +1.75 to +2.25, 3 paired seeds)." in verdict.sentence


def test_it_hurt():
    verdict = judge(moved(-0.02, -0.021, -0.019), ALONE)
    assert verdict.helps is False
    assert verdict.sentence.startswith("Not worth it: -2.00 points of accuracy")
    assert "evidence" not in verdict.sentence


def test_it_is_unclear():
    verdict = judge(moved(0.02, -0.02, 0.01), ALONE)
    assert verdict.helps is False
    assert verdict.interval[0] < 0 < verdict.interval[1]
    assert verdict.sentence.startswith("Not worth it on this evidence: +0.33 points")
    assert verdict.sentence.endswith("and zero lies inside it.")


def test_all_equal_is_unclear():
    verdict = judge(ALONE, ALONE)
    assert verdict.difference == 0
    assert verdict.interval == (0, 0)
    assert verdict.helps is False
    assert "+0.00 points" in verdict.sentence
    assert "on this evidence" in verdict.sentence


def test_one_seed_gives_no_verdict():
    verdict = judge([0.95], [0.93])
    assert verdict.interval is None
    assert verdict.helps is None
    assert "One seed says +2.00 points" in verdict.sentence
    assert "--seeds 5" in verdict.sentence


@pytest.mark.parametrize(
    ("gains", "said", "better"),
    [
        ((0.02, 0.021, 0.019), "It beats label smoothing, which needs no teacher, by 2.00 points (95 % ", True),
        ((-0.02, -0.021, -0.019), "But label smoothing, which needs no teacher, beats it by 2.00 points (95 % ", False),
        ((0.02, -0.02, 0.01), "Beside label smoothing, which needs no teacher, nothing is sure: +0.33 points (", False),
    ],
)
def test_a_control_that_needs_no_teacher_is_set_beside(gains, said, better):
    verdict = set_beside(moved(*gains), ALONE, name="label smoothing")
    assert verdict.sentence.startswith(said)
    assert verdict.helps is better


def test_one_seed_beside_a_control():
    verdict = set_beside([0.95], [0.93], name="label smoothing")
    assert verdict.helps is None
    assert "+2.00 points with this one seed" in verdict.sentence


@pytest.mark.parametrize("ours", [[0.95], moved(0.02, 0.021, 0.019)])
def test_it_is_json(ours):
    found = judge(ours, ALONE[: len(ours)]).as_dict()
    assert list(found) == ["difference", "interval", "helps", "sentence"]
    assert json.loads(json.dumps(found)) == found
