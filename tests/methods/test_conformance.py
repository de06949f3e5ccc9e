"""Every kernel on the card of a method keeps its promises, and equals loops in float64 that its test writes out."""

from __future__ import annotations

import importlib.util
import inspect
import pkgutil
from functools import cache
from pathlib import Path

import pytest
import torch

from limbeck import methods
from limbeck.functional.kernel import declaration
from limbeck.methods import method, names
from limbeck.testing import check_kernel

CLAIMS = {f"{name}-{claim}": (name, claim) for name in names() for claim in method(name).card.kernels}


@pytest.mark.parametrize(("name", "claim"), CLAIMS.values(), ids=CLAIMS)
def test_every_kernel_of_a_card_keeps_every_law_and_equals_its_brute_force(name, claim):
    check_kernel(claim)
    brute_force = find_brute_force(name, claim.name)
    for seed, examples in enumerate((1, 3, 5)):
        sample = claim.sample(examples, dtype=torch.float64, seed=seed + 10)
        value = claim(sample)
        expected = torch.as_tensor(brute_force(**sample, **claim.hyper), dtype=torch.float64).reshape(value.shape)
        torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-9)


def find_brute_force(name, kernel):
    """The function ``brute_force_KERNEL`` in the test of a method."""
    functions = vars(load_test(name))
    assert f"brute_force_{kernel}" in functions, (
        f"tests/methods/test_{name}.py has no function brute_force_{kernel}(...): the same arguments as the kernel, "
        "plain loops in float64, and nothing of the kernel's file"
    )
    return functions[f"brute_force_{kernel}"]


@cache
def load_test(name):
    path = Path(__file__).with_name(f"test_{name}.py")
    assert path.exists(), f"there is no {path.name}: the method {name} has kernels on its card"
    spec = importlib.util.spec_from_file_location(f"brute_force.{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_kernel_of_a_method_is_on_a_card():
    promised = {claim.kernel for name in names() for claim in method(name).card.kernels}
    for module in pkgutil.walk_packages(methods.__path__, "limbeck.methods."):
        for key, one in vars(importlib.import_module(module.name)).items():
            own = inspect.isfunction(one) and one.__module__ == module.name and declaration(one, "per")
            assert not own or one in promised, f"{module.name}.{key} is on no card: kernels=(KernelClaim({key}),)"
