"""MLKD: three levels at several temperatures, as in the paper."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.errors import LimbeckError
from limbeck.methods import make
from limbeck.methods.logits.mlkd import batch_gram_distance, class_gram_distance, several_temperature_kl
from methods.row_math import kl, like, softmax, to_rows

DRAW = torch.Generator().manual_seed(0)
Z, V = (3 * torch.randn(6, 5, generator=DRAW, dtype=torch.float64) for _ in range(2))
TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)
KERNELS = (several_temperature_kl, batch_gram_distance, class_gram_distance)


def brute_force_several_temperature_kl(student, teacher, *, temperatures=TEMPERATURES):
    rows = zip(to_rows(student), to_rows(teacher), strict=True)
    return like(student, [sum(t**2 * kl(z, v, t) for t in temperatures) for z, v in rows])


def chosen(student, mask):
    rows = to_rows(student)
    return rows if mask is None else [row for row, one in zip(rows, mask.flatten().tolist(), strict=True) if one]


def brute_force_batch_gram_distance(student, teacher, *, mask=None, temperatures=TEMPERATURES):
    total, ours, theirs = 0.0, chosen(student, mask), chosen(teacher, mask)
    for t in temperatures:
        q, p = [softmax(row, t) for row in ours], [softmax(row, t) for row in theirs]
        for i in range(len(p)):
            for j in range(len(p)):
                dots = [sum(a * b for a, b in zip(x[i], x[j], strict=True)) for x in (p, q)]
                total += (dots[0] - dots[1]) ** 2
    return torch.tensor(total / max(len(ours), 1), dtype=torch.float64)


def brute_force_class_gram_distance(student, teacher, *, mask=None, temperatures=TEMPERATURES):
    total, ours, theirs = 0.0, chosen(student, mask), chosen(teacher, mask)
    classes = range(student.shape[-1])
    for t in temperatures:
        q, p = [softmax(row, t) for row in ours], [softmax(row, t) for row in theirs]
        for a in classes:
            for b in classes:
                dots = [sum(row[a] * row[b] for row in x) for x in (p, q)]
                total += (dots[0] - dots[1]) ** 2
    live = sum(any(row[c] > -math.inf for row in ours + theirs) for c in classes)
    return torch.tensor(total / max(live, 1), dtype=torch.float64)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("rows", [6, 3])  # more rows than classes, and fewer
def test_the_kernels_are_the_formulas(kernel, rows):
    reference = globals()[f"brute_force_{kernel.__name__}"]
    torch.testing.assert_close(kernel(Z[:rows], V[:rows]), reference(Z[:rows], V[:rows]))


@pytest.mark.parametrize("kernel", KERNELS[1:])
@pytest.mark.parametrize("rows", [6, 3])
def test_gradients_are_those_of_finite_differences_for_both_models(kernel, rows):
    sides = [x[:rows].clone().requires_grad_() for x in (Z, V)]
    mask = torch.arange(rows) != 1
    assert torch.autograd.gradcheck(lambda *pair: kernel(*pair, mask=mask, temperatures=(1.0, 3.0)), sides)
    assert torch.autograd.gradgradcheck(lambda *pair: kernel(*pair, temperatures=(2.0,)), sides)


@pytest.mark.parametrize("kernel", KERNELS[1:])
@pytest.mark.parametrize("rows", [6, 3])
def test_equal_predictions_have_the_gradient_0_exactly(kernel, rows):
    z = Z[:rows].float().clone().requires_grad_()
    kernel(z, z.detach()).backward()
    assert not z.grad.any()


@pytest.mark.parametrize("kernel", KERNELS[1:])
def test_positions_are_rows_and_masked_ones_are_none(kernel):
    z, v = Z.reshape(2, 3, 5), V.reshape(2, 3, 5)
    mask = torch.tensor([[True, False, True], [True, True, False]])
    torch.testing.assert_close(kernel(z, v, mask=mask), kernel(z[mask], v[mask]))
    torch.testing.assert_close(kernel(z, v, mask=torch.tensor([True, False])), kernel(z[0], v[0]))


@pytest.mark.parametrize("wrong", [[], [2.0, 0.0]])
def test_wrong_temperatures_are_refused(wrong):
    with pytest.raises(LimbeckError, match="temperature"):
        make("mlkd", teacher=torch.nn.Linear(2, 3), temperatures=wrong)
