"""NKD: the kernel is the formula of the paper, and its best student has the teacher's other classes."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.errors import LimbeckError
from limbeck.functional import kl_divergence
from limbeck.methods import make
from limbeck.methods.logits.nkd import normalized_cross_entropy
from methods.row_math import like, log_softmax, softmax, to_rows, without

DRAW = torch.Generator().manual_seed(0)
Z, V = (3 * torch.randn(6, 5, generator=DRAW, dtype=torch.float64) for _ in range(2))
Y = torch.tensor([0, 1, 2, 3, 4, -100])


def brute_force_normalized_cross_entropy(student, teacher, *, labels, temperature=1.0, non_target_weight=1.5):
    values = []
    for z, v, y in zip(to_rows(student), to_rows(teacher), labels.flatten().tolist(), strict=True):
        if y == -100:
            values.append(0.0)
            continue
        target = -softmax(v)[y] * log_softmax(z)[y]
        ours, theirs = log_softmax(without(z, y), temperature), softmax(without(v, y), temperature)
        rest = -sum(p * q for p, q in zip(theirs, ours, strict=True) if p > 0)
        values.append(target + non_target_weight * temperature**2 * rest)
    return like(student, values)


@pytest.mark.parametrize("hyper", [{}, {"temperature": 4.0, "non_target_weight": 0.5}])
def test_the_kernel_is_the_formula(hyper):
    value = normalized_cross_entropy(Z, V, labels=Y, **hyper)
    torch.testing.assert_close(value, brute_force_normalized_cross_entropy(Z, V, labels=Y, **hyper))
    maps = normalized_cross_entropy(Z.reshape(2, 3, 5), V.reshape(2, 3, 5), labels=Y.reshape(2, 3), **hyper)
    torch.testing.assert_close(maps.flatten(), value)


def test_its_slope_in_the_other_classes_is_that_of_their_divergence():
    z = Z.clone().requires_grad_()
    rest = normalized_cross_entropy(z, V, labels=Y.clamp_min(0), non_target_weight=1.0, temperature=2.0)
    label = normalized_cross_entropy(z, V, labels=Y.clamp_min(0), non_target_weight=0.0)
    (slope,) = torch.autograd.grad((rest - label).sum(), z)
    hidden = torch.nn.functional.one_hot(Y.clamp_min(0), 5).bool()
    other = Z.clone().requires_grad_()
    divergence = kl_divergence(
        other.masked_fill(hidden, -torch.inf), V.masked_fill(hidden, -torch.inf), temperature=2.0
    )
    torch.testing.assert_close(slope, torch.autograd.grad(divergence.sum(), other)[0])


def test_two_classes_leave_the_soft_term_alone():
    z = torch.zeros(1, 2)
    value = normalized_cross_entropy(z, z, labels=torch.tensor([0]))
    assert value.item() == pytest.approx(0.5 * math.log(2))


def test_a_task_without_one_label_is_refused():
    with pytest.raises(LimbeckError, match="no single class"):
        make("nkd", teacher=torch.nn.Linear(2, 3), task="multi_label")
