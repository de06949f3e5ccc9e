"""The shape checks of the tests find wrong shapes."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from limbeck.functional import probabilities
from shape_checks import EVERY, FIRST, _decorate, begin_test, check_sometimes


def area(square: Float[Tensor, "side side"]) -> Float[Tensor, ""]:
    return torch.tensor(float(square.numel()))


def is_refused(function, *arguments) -> bool:
    try:
        function(*arguments)
    except TypeCheckError:
        return True
    return False


def test_the_first_calls_of_each_test_are_checked_and_then_some():
    checked = check_sometimes(area)
    for _ in range(2):
        begin_test()
        found = [is_refused(checked, torch.zeros(2, 3)) for _ in range(2 * EVERY)]
        assert [number for number, one in enumerate(found, start=1) if one] == [*range(1, FIRST + 1), EVERY, 2 * EVERY]
    begin_test()
    assert float(checked(torch.zeros(2, 2))) == 4


def test_results_and_fields_are_checked():
    def broken(x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        return x[1:]

    @_decorate(typechecker=None)
    @dataclass
    class Pair:
        left: Float[Tensor, " n"]
        right: Float[Tensor, " n"]

    begin_test()
    assert is_refused(check_sometimes(broken), torch.zeros(3))
    assert is_refused(Pair, torch.zeros(3), torch.zeros(2))


def test_the_functions_of_limbeck_are_checked():
    with pytest.raises(TypeCheckError):
        probabilities([0.0, 1.0])


def test_a_checked_function_is_freed_as_an_unchecked_one():
    def make():
        held = torch.zeros(3)

        def inner(x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
            return x + held

        return check_sometimes(inner), weakref.ref(held)

    function, held = make()
    function(torch.ones(3))
    del function
    assert held() is None
