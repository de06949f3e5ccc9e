"""What is suggested for an unknown arm, extra metric or method: what was meant, or nothing."""

from __future__ import annotations

import re

import pytest

from limbeck.errors import UnknownNameError
from limbeck.job import make_job
from limbeck.job.validation import _MEANT, EXTRA_METRICS

JOB = {"data": "digits", "teacher": "mlp", "student": "mlp"}


def refused(**changes):
    with pytest.raises(UnknownNameError) as error:
        make_job({**JOB, **changes})
    return str(error.value)


def suggested(sentence):
    found = re.search(r"Did you mean (.*?)\?", sentence)
    return re.findall(r"'([^']+)'", found[1]) if found else []


@pytest.mark.parametrize(("arm", "name"), [("hinton", "hinton"), ("dkd", "dkd"), ("hintn", "hinton")])
def test_a_method_among_the_arms_is_sent_to_methods(arm, name):
    sentence = refused(arms=["student alone", arm])
    assert f"--set methods=[{name}]" in sentence
    assert "'distilled'" in sentence
    assert suggested(sentence) == []
    make_job({**JOB, "methods": [name], "arms": ["student alone", "distilled"]})


@pytest.mark.parametrize(("arm", "meant"), [("distiled", ["distilled"]), ("student", ["student alone"]), ("zzz", [])])
def test_a_misspelled_arm_has_the_nearest_and_no_word_of_methods(arm, meant):
    sentence = refused(arms=[arm])
    assert suggested(sentence) == meant
    assert "methods=" not in sentence


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("robustness", ["attacks", "corruptions"]), ("Fairness", ["groups"]), ("worst_group", ["groups"]),
        ("hessian", ["sharpness"]), ("attack", ["attacks"]), ("faithfullness", ["faithfulness"]), ("calibration", []),
        ("usefulness", []),
    ],
)  # fmt: skip
def test_an_unknown_extra_metric_suggests_what_was_meant(name, meant):
    assert suggested(refused(also=name)) == meant


def test_every_meaning_is_an_extra_metric():
    assert {one for several in _MEANT.values() for one in several} <= set(EXTRA_METRICS)
    assert not set(_MEANT) & set(EXTRA_METRICS)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("hintn", "hinton"),
        ("kd", "hinton"),
        ("adversarial", "mtard"),
        ("logit_standardisation", "logit_standardization"),
    ],
)
def test_an_unknown_method_suggests_the_nearest_or_one_whose_card_has_the_word(name, meant):
    assert meant in suggested(refused(method=name))


def test_an_unknown_method_that_no_card_has_suggests_none():
    assert suggested(refused(method="zzzzzz")) == []
