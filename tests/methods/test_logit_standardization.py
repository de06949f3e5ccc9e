"""Logit standardization: only the relations of the logits count, whatever their size."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.methods.logits.logit_standardization import standardize_logits, standardized_kl
from methods.row_math import kl, like, to_rows

DRAW = torch.Generator().manual_seed(0)
Z, V = (3 * torch.randn(6, 5, generator=DRAW, dtype=torch.float64) for _ in range(2))


def standardized(row):
    live = [x for x in row if x > -math.inf]
    mean = sum(live) / max(len(live), 1)
    spread = math.sqrt(sum((x - mean) ** 2 for x in live) / max(len(live), 1)) or 1.0
    return [(x - mean) / spread if x > -math.inf else x for x in row]


def brute_force_standardized_kl(student, teacher, *, temperature=1.0):
    rows = zip(to_rows(student), to_rows(teacher), strict=True)
    return like(student, [temperature**2 * kl(standardized(z), standardized(v), temperature) for z, v in rows])


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_kernel_is_the_formula(temperature):
    z, v = (rows.masked_fill(torch.arange(5) == 3, -torch.inf) for rows in (Z, V))
    for ours, theirs in ((Z, V), (z, v)):
        value = standardized_kl(ours, theirs, temperature=temperature)
        torch.testing.assert_close(value, brute_force_standardized_kl(ours, theirs, temperature=temperature))


def test_the_size_of_the_logits_does_not_matter():
    factors = torch.logspace(-8, 8, 6, dtype=torch.float64)[:, None]
    torch.testing.assert_close(standardized_kl(factors * Z + 5 * factors, V), standardized_kl(Z, V))
    assert standardized_kl(0.01 * V - 3, V).abs().max() < 1e-12


def test_the_gradient_changes_no_size_of_the_student_s_logits():
    z = Z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(standardized_kl(z, V).sum(), z)
    torch.testing.assert_close((slope * Z).sum(-1), torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(slope.sum(-1), torch.zeros(6, dtype=torch.float64))


def test_rows_of_equal_logits_give_no_noise():
    flat = torch.full((2, 5), 0.1, requires_grad=True)
    assert standardize_logits(flat).abs().max() < 1e-6
    (slope,) = torch.autograd.grad(standardized_kl(flat, V[:2].float()).sum(), flat)
    assert slope.isfinite().all()
    assert slope.abs().max() > 0  # a student that begins with equal logits can still learn


def test_two_classes_have_no_gradient():
    z = Z[:, :2].clone().requires_grad_()
    (slope,) = torch.autograd.grad(standardized_kl(z, V[:, :2]).sum(), z)
    torch.testing.assert_close(slope, torch.zeros_like(slope))
