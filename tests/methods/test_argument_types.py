"""Every argument of every method that is a number, a text, an address, a task, true or false, refuses other types."""

from __future__ import annotations

import pytest

from limbeck.errors import ArgumentError
from limbeck.methods import method, names
from limbeck.methods.arguments import check_type
from limbeck.tasks import get_task

WRONG = {
    "float": ("a", True, None, [1.0]),
    "float | None": ("a", True, [1.0]),
    "int": ("a", True, None, 1.5, [1]),
    "int | None": ("a", True, 1.5, [1]),
    "bool": ("no", 1, None, [True]),
    "str": (3, None, True, ["a"]),
    "str | None": (3, True, ["a"]),
    "Layers": (3, None, True, [3], "", []),
    "str | Task": (3, None, True, ["classification"]),
}
"""Values of other types by annotation."""


def wrong_arguments(name):
    """Each checked parameter of a method with each wrong value; the other arguments are those of the card."""
    call = method(name)
    others = {key: call.card.example.get(key, "model") for key in call.required}
    for key, parameter in call.parameters.items():
        values = WRONG.get(str(parameter.annotation), ())
        for value in (*values, "") if key.endswith("_at") and values else values:
            yield key, {**others, key: value}


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("by_name", [True, False], ids=["make", "function"])
def test_an_argument_of_another_type_is_refused_by_its_name_when_the_recipe_is_built(name, by_name):
    call = method(name)
    broken = []
    for key, arguments in wrong_arguments(name):
        try:
            call(**arguments) if by_name else call.make(**arguments)
        except ArgumentError as error:
            if error.argument == key:
                continue
            broken.append(f"{key}={arguments[key]!r}: the error names {error.argument}")
        except Exception as error:
            broken.append(f"{key}={arguments[key]!r}: {type(error).__name__}: {error}")
        else:
            broken.append(f"{key}={arguments[key]!r} is accepted")
    assert not broken, "\n".join(broken)


def test_a_whole_number_is_a_number_and_true_is_not():
    check_type("weight", float, 2)
    check_type("low", float | None, None)
    check_type("student_at", str | None, None)
    for kind in (float, int, int | None):
        with pytest.raises(ArgumentError) as caught:
            check_type("weight", kind, True)
        assert caught.value.argument == "weight"


@pytest.mark.parametrize("task", [None, 3, ["classification"]])
def test_a_task_is_a_name_or_a_task(task):
    with pytest.raises(ArgumentError) as caught:
        get_task(task)
    assert caught.value.argument == "task"
