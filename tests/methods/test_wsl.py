"""WSL: the kernel is the formula of the paper, and no gradient goes through its weights."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.errors import LimbeckError
from limbeck.functional import kl_divergence
from limbeck.methods import make
from limbeck.methods.logits.wsl import weighted_soft_label_kl
from methods.row_math import kl, like, log_softmax, to_rows

DRAW = torch.Generator().manual_seed(0)
Z, V = (3 * torch.randn(6, 5, generator=DRAW, dtype=torch.float64) for _ in range(2))
Y = torch.tensor([0, 1, 2, 3, 4, -100])


def brute_force_weighted_soft_label_kl(student, teacher, *, labels, temperature=1.0):
    values = []
    for z, v, y in zip(to_rows(student), to_rows(teacher), labels.flatten().tolist(), strict=True):
        if y == -100:
            values.append(0.0)
            continue
        ratio = -log_softmax(z)[y] / (-log_softmax(v)[y] + 1e-7)
        values.append((1 - math.exp(-ratio)) * temperature**2 * kl(z, v, temperature))
    return like(student, values)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_kernel_is_the_formula(temperature):
    value = weighted_soft_label_kl(Z, V, labels=Y, temperature=temperature)
    torch.testing.assert_close(value, brute_force_weighted_soft_label_kl(Z, V, labels=Y, temperature=temperature))


def test_the_gradient_is_that_of_the_divergence_times_the_weight():
    labels, z = Y.clamp_min(0), Z.clone().requires_grad_()
    value, plain = weighted_soft_label_kl(z, V, labels=labels), kl_divergence(z, V)
    (slope,) = torch.autograd.grad(value.sum(), z)
    (plain_slope,) = torch.autograd.grad(plain.sum(), z)
    torch.testing.assert_close(slope, (value / plain).detach()[:, None] * plain_slope)


@pytest.mark.parametrize(("student", "weight"), [(0.0, 1 - math.exp(-1)), (20.0, 0.0), (-2000.0, 1.0)])
def test_the_weight_is_small_where_the_student_is_better(student, weight):
    z = torch.tensor([[student, 0.0, 0.0]], dtype=torch.float64)
    v = torch.tensor([[0.0, 1e-3, -1e-3]], dtype=torch.float64)  # as sure of the label as a student of zeros
    share = weighted_soft_label_kl(z, v, labels=torch.tensor([0])) / kl_divergence(z, v)
    assert share.item() == pytest.approx(weight, abs=1e-5)


def test_a_task_without_one_label_is_refused():
    with pytest.raises(LimbeckError, match="no single class"):
        make("wsl", teacher=torch.nn.Linear(2, 3), task="regression")
