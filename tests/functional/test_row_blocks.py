"""Functions of rows in blocks have the same values and derivatives as at once."""

from __future__ import annotations

import pytest
import torch

from limbeck.functional import kl_divergence
from limbeck.functional.row_blocks import compute_by_rows

DRAW = torch.Generator().manual_seed(0)
Z, V = (torch.randn(3, 4, 5, generator=DRAW, dtype=torch.float64) for _ in range(2))
Y = torch.randint(5, (3, 4), generator=DRAW)


def weighted(student, teacher, labels):
    return (1 + labels) * kl_divergence(student, teacher)


@pytest.mark.parametrize("block", [1, 10, 17, 1000])
def test_values_and_gradients_are_those_of_the_function(block):
    z, v = Z.clone().requires_grad_(), V.clone().requires_grad_()
    value, direct = compute_by_rows(weighted, z, v, Y, block=block), weighted(z, v, Y)
    torch.testing.assert_close(value, direct)
    scale = torch.rand(3, 4, generator=DRAW, dtype=torch.float64)
    for ours, expected in zip(*(torch.autograd.grad((scale * x).sum(), (z, v)) for x in (value, direct)), strict=True):
        torch.testing.assert_close(ours, expected)


def test_one_side_may_have_no_gradient():
    z = Z.clone().requires_grad_()
    value = compute_by_rows(weighted, z, V, Y, block=10)
    torch.testing.assert_close(torch.autograd.grad(value.sum(), z), torch.autograd.grad(weighted(z, V, Y).sum(), z))
    assert not compute_by_rows(weighted, Z, V, Y, block=10).requires_grad


def test_second_derivatives_agree_with_finite_differences():
    def function(z, v):
        return compute_by_rows(weighted, z, v, Y, block=10)

    inputs = Z.clone().requires_grad_(), V.clone().requires_grad_()
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)  # in random directions; each would take long


def test_transforms_of_torch_func_compute_at_once():
    slopes = torch.func.grad(lambda z: compute_by_rows(weighted, z, V, Y, block=10).sum())(Z)
    torch.testing.assert_close(slopes, torch.func.grad(lambda z: weighted(z, V, Y).sum())(Z))
