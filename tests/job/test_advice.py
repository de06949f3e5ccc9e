"""Which student to ship: one answer, never surer than the verdict is."""

from __future__ import annotations

import pytest

from limbeck.job import recommend


def result_of(interval, against=None, *, accuracy=0.9):
    rows = {name: {"role": "control", "accuracy": {"mean": accuracy}} for name in ("student alone", *(against or {}))}
    rows["distilled"] = {"role": "method", "accuracy": {"mean": accuracy}}
    verdict = {"arm": "distilled", "difference": 0.01, "interval": interval, "helps": interval and interval[0] > 0,
               "against": {name: {"interval": one} for name, one in (against or {}).items()}}  # fmt: skip
    return {"arms": rows, "verdict": verdict, "data": {"classes": 10, "test": 1000}}


UP, DOWN, BOTH = [0.01, 0.02], [-0.02, -0.01], [-0.01, 0.02]


@pytest.mark.parametrize(
    ("interval", "against", "answer"),
    [
        (UP, {}, "distilled"),
        (DOWN, {}, "student alone"),
        (BOTH, {}, "distilled or student alone"),
        (None, {}, "distilled or student alone"),
        (UP, {"label smoothing": UP, "shuffled teacher": UP}, "distilled"),
        (UP, {"label smoothing": BOTH}, "distilled or label smoothing"),
        (UP, {"shuffled teacher": BOTH}, "distilled"),
        (UP, {"label smoothing": DOWN}, "label smoothing"),
        (BOTH, {"label smoothing": BOTH}, "distilled, student alone or label smoothing"),
        (BOTH, {"label smoothing": UP}, "distilled or student alone"),
        (BOTH, {"label smoothing": DOWN}, "label smoothing"),
        (DOWN, {"label smoothing": DOWN}, "label smoothing or student alone"),
        (DOWN, {"label smoothing": UP}, "student alone"),
        (None, {"label smoothing": None, "shuffled teacher": None}, "distilled, student alone or label smoothing"),
    ],
)
def test_the_answer_names_every_student_that_is_not_shown_to_be_worse(interval, against, answer):
    found = recommend(result_of(interval, against))
    assert found.ready
    assert found.answer == answer
    assert found.sentence.startswith(f"To ship: {answer}. ")
    assert (found.arm, *found.others) == tuple(answer.replace(" or ", ", ").split(", "))
    assert ("`student/`" in found.sentence) == bool(found.others), "which of them lies there is said"


def test_a_student_that_guesses_is_not_shipped_however_sure_the_verdict():
    found = recommend(result_of(UP, accuracy=0.1))
    assert (found.ready, found.answer, found.others) == (False, "Nothing yet", ())
    assert found.sentence.startswith("Nothing to ship yet.")


def test_what_there_is_one_of_is_reported():
    result = result_of(None)
    assert "One seed" in recommend(result).why
    result["arms"]["distilled"]["accuracy"]["values"] = [1.0, 1.0]
    assert "One test example" in recommend(result).why
