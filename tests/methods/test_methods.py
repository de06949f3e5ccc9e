"""All methods: their laws, names, arguments and errors."""

from __future__ import annotations

import subprocess
import sys

import pytest
from torch import nn

from limbeck.errors import LimbeckError, UnknownNameError
from limbeck.methods import make, method, names
from limbeck.recipe import Recipe
from limbeck.testing import check_method

TEACHER = nn.Linear(4, 3)


@pytest.mark.filterwarnings("ignore::limbeck.errors.LimbeckWarning")  # some methods warn of the tiny data
@pytest.mark.parametrize("name", names())
def test_every_method_keeps_every_law(name):
    check_method(name, thorough=False)


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore::limbeck.errors.LimbeckWarning")
@pytest.mark.parametrize("name", names())
def test_every_method_keeps_every_law_on_all_networks(name):
    check_method(name)


@pytest.mark.parametrize("name", names())
def test_the_example_of_a_card_is_what_the_method_needs(name):
    entry = method(name)
    assert set(entry.card.example) <= set(entry.parameters)
    assert set(entry.required) - {"teacher"} <= set(entry.card.example)
    assert set(entry.card.ranges) <= set(entry.defaults)
    for key, limits in entry.card.ranges.items():
        assert limits.low <= entry.defaults[key] <= limits.high


def test_nothing_is_imported_before_it_is_requested():
    script = (
        "import sys, limbeck.methods as m; m.names(); loaded = set(sys.modules);"
        "assert not any(n.startswith('limbeck.methods.') and n.rpartition('.')[2] in m.names() for n in loaded);"
        "m.method('hinton'); assert 'limbeck.methods.logits.hinton' in sys.modules;"
        "assert 'limbeck.methods.online.mutual' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_unknown_method_gets_the_nearest_name():
    with pytest.raises(UnknownNameError, match=r"Unknown method 'hintn'\. Did you mean 'hinton'\?"):
        method("hintn")
    with pytest.raises(UnknownNameError, match="Did you mean 'fitnets'"):
        make("fitnet", teacher=TEACHER)


@pytest.mark.parametrize("name", names())
def test_a_misspelled_argument_gets_the_nearest_name(name):
    right = max(method(name).parameters, key=len)
    wrong = right[:2] + right[3:]
    with pytest.raises(UnknownNameError, match=f"Unknown argument of {name}.*Did you mean '{right}'"):
        make(name, **{wrong: 1})


def test_a_missing_argument_is_named_with_what_to_type():
    with pytest.raises(LimbeckError, match=r"fitnets needs hint and guided: make\('fitnets', teacher=\.\.\., hint="):
        make("fitnets", teacher=TEACHER)
    with pytest.raises(LimbeckError, match=r"hinton needs teacher: make\('hinton', teacher=\.\.\.\)"):
        make("hinton")


@pytest.mark.parametrize("name", [name for name in names() if not method(name).has_teacher])
def test_a_method_without_a_teacher_reports_it(name):
    with pytest.raises(UnknownNameError, match="leave teacher out"):
        make(name, teacher=TEACHER)


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("hinton", {"temperature": 0.0}, "temperature is a finite number above 0; got 0.0"),
        ("hinton", {"temperature": "four"}, "temperature is a number; got 'four'"),
        ("hinton", {"weight": 1.5}, "weight is a number from 0 to 1; got 1.5"),
        ("hinton", {"weight": float("nan")}, "weight is a number from 0 to 1; got nan"),
        ("hinton", {"labels": "no"}, "labels is true or false; got 'no'"),
        ("hinton", {"epochs": 2.5}, "epochs is a whole number.*; got 2.5"),
        ("hinton", {"epochs": True}, "epochs is a whole number.*; got True"),
        ("hinton", {"epochs": 0}, "at least 1; got epochs=0"),
        ("specialists", {"active": 0}, "active is a whole number of at least 1; got 0"),
        ("specialists", {"soft": -1.0}, "soft is a finite number of at least 0"),
        ("specialists", {"mean": "harmonic"}, "mean is one of arithmetic and geometric; got 'harmonic'"),
        ("specialists", {"groups": [[0, 1]], "size": 2}, "groups=, or clusters= and size="),
        ("specialists", {"optimizer": {"name": "sgd", "rate": 1}}, "'rate'"),
        ("specialists", {"temperature": 0.0}, "temperature is a finite number above 0"),
        ("label_smoothing", {"smoothing": -0.1}, "smoothing is a number from 0 to 1"),
        ("born_again", {"generations": 0}, "generations is a whole number of at least 1; got 0"),
        ("mutual", {"weight": -1.0}, "weight is a finite number of at least 0; got -1.0"),
        ("mean_teacher", {"decay": 1.0}, "decay must be at least 0 and below 1; got 1.0"),
        ("mean_teacher", {"ramp_up": 0.0}, r"until .*fraction.* got 0\.0"),
        ("mean_teacher", {"weight": float("inf")}, "weight is a finite number of at least 0; got inf"),
        ("fitnets", {"hint": "a", "guided": "b", "weight": -1.0}, "weight is a finite number of at least 0"),
        ("privileged", {"weight": 2.0}, "weight is a number from 0 to 1; got 2.0"),
        ("privileged", {"temperature": -1.0}, "temperature is a finite number above 0"),
    ],
)
def test_a_value_out_of_range_is_refused_when_it_is_built(name, arguments, sentence):
    options = {"teacher": TEACHER} | arguments if method(name).has_teacher else arguments
    with pytest.raises(LimbeckError, match=sentence):
        make(name, **options)


def test_what_cannot_teach_is_refused_when_it_is_built():
    with pytest.raises(LimbeckError, match="A int "):
        make("hinton", teacher=3)


def test_a_whole_number_may_stand_for_a_number():
    recipe = make("hinton", teacher=TEACHER, temperature=2, weight=1)
    assert isinstance(recipe, Recipe)
    assert "temperature=2.0" in repr(next(recipe.stages()).objective)
