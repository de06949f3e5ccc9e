"""Schedules against their definitions, at both ends and between."""

from __future__ import annotations

import math

import pytest

from limbeck.batch import Progress
from limbeck.errors import LimbeckError
from limbeck.schedule import constant, cosine, ramp, sigmoid_ramp, steps

EVERY = [Progress(step, 21) for step in range(21)]


def test_constant_never_moves():
    assert {constant(0.3)(p) for p in EVERY} == {0.3}


def test_ramp_is_a_straight_line_from_start_to_end_then_held():
    schedule = ramp(0.9, start=0.1, until=0.5)
    for p in EVERY:
        assert schedule(p) == pytest.approx(0.1 + 0.8 * min(p.step / 10, 1.0))


def test_ramp_to_its_own_start_is_constant():
    assert {ramp(0.4, start=0.4)(p) for p in EVERY} == {0.4}


def test_cosine_ends_and_middle():
    schedule = cosine(0.2, start=1.0)
    assert schedule(EVERY[0]) == pytest.approx(1.0)
    assert schedule(EVERY[10]) == pytest.approx(0.6)
    assert schedule(EVERY[-1]) == pytest.approx(0.2)


def test_cosine_is_symmetric_about_its_middle():
    schedule = cosine(0.0, start=1.0)
    for early, late in zip(EVERY, reversed(EVERY), strict=True):
        assert schedule(early) + schedule(late) == pytest.approx(1.0)


def test_sigmoid_ramp_is_the_paper_s_formula():
    schedule = sigmoid_ramp(2.0, until=0.5)
    for p in EVERY:
        x = min(p.step / 20 / 0.5, 1.0)
        assert schedule(p) == pytest.approx(2.0 * math.exp(-5 * (1 - x) ** 2))
    assert schedule(EVERY[-1]) == 2.0


def test_steps_change_from_their_fraction_on_in_any_order():
    schedule = steps({0.75: 0.01, 0.5: 0.1}, start=1.0)
    assert [schedule(p) for p in EVERY] == [1.0] * 10 + [0.1] * 5 + [0.01] * 6


def test_a_stage_of_one_step_stands_at_its_start():
    assert Progress(0, 1).fraction == 0.0
    assert ramp(0.9)(Progress(0, 1)) == 0.0


@pytest.mark.parametrize("until", [0.0, -0.1, 1.1, float("nan")])
def test_until_is_a_fraction(until):
    for make in (ramp, sigmoid_ramp):
        with pytest.raises(LimbeckError, match=r"fraction of the stage"):
            make(1.0, until=until)


def test_steps_refuse_an_absolute_step():
    with pytest.raises(LimbeckError, match=r"fractions of the stage.*300"):
        steps({300.0: 0.1}, start=1.0)


def test_a_schedule_prints_as_it_is_written():
    assert repr(ramp(0.9)) == "ramp(0.9, start=0.0, until=1.0)"
    assert repr(constant(2.0)) == "2.0"
