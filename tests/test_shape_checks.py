"""The shape checks of the tests find wrong shapes."""

from __future__ import annotations

import re
import weakref
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor

import limbeck
from limbeck.functional import probabilities
from shape_checks import EVERY, FIRST, SHAPE, _decorate, begin_test, check_sometimes


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


def test_every_name_of_a_shape_is_known():
    text = "\n".join(path.read_text(encoding="utf-8") for path in Path(limbeck.__file__).parent.rglob("*.py"))
    kinds = {name for line in re.findall(r"^ *from jaxtyping import (.+)", text, re.M) for name in line.split(", ")}
    assert all(SHAPE.search(f"{kind}[Tensor]") for kind in kinds), kinds
    aliases = re.findall(rf"^(\w+)(?:: TypeAlias)? = .*\b(?:{'|'.join(kinds)})\[", text, re.M)
    assert {"Images", "Tokens"} <= set(aliases)
    assert [name for name in aliases if not SHAPE.search(name)] == []


def test_a_function_without_shapes_stays_as_it_is():
    def name(of: int) -> str:
        return str(of)

    assert check_sometimes(name) is name


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
