"""The weight of each example under distillation, against automatic differentiation."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.metrics import Predictions, gradient_weight, gradient_weights


def sample(rows=20, classes=5):
    draw = torch.Generator().manual_seed(0)
    z, v = (2 * torch.randn(rows, classes, generator=draw, dtype=torch.float64) for _ in range(2))
    return z, v, torch.randint(classes, (rows,), generator=draw)


@pytest.mark.parametrize(("weight", "temperature"), [(1.0, 1.0), (0.3, 1.0), (0.9, 4.0), (0.0, 2.0)])
def test_it_is_the_ratio_of_two_gradients(weight, temperature):
    z, v, y = sample()
    z.requires_grad_()
    hard = -z.log_softmax(-1).gather(1, y[:, None])[:, 0]
    soft = -((v / temperature).softmax(-1) * (z / temperature).log_softmax(-1)).sum(-1)
    both = (1 - weight) * hard + weight * soft
    (slope,) = torch.autograd.grad(both.sum(), z, retain_graph=True)
    (plain,) = torch.autograd.grad(hard.sum(), z)
    expected = (slope / plain).gather(1, y[:, None])[:, 0]
    found = gradient_weights(Predictions(z.detach(), v, y), weight=weight, temperature=temperature)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_sure_teacher_leaves_all_of_it_and_an_equal_student_nothing():
    z, v, y = sample()
    sure = torch.zeros_like(v).scatter(1, y[:, None], 1e3)
    torch.testing.assert_close(gradient_weights(Predictions(z, sure, y)), torch.ones(20, dtype=torch.float64))
    assert gradient_weight(Predictions(z, sure, y)).value == pytest.approx(1)
    assert gradient_weight(Predictions(v, v, y)).value == pytest.approx(0, abs=1e-12)


def test_it_rises_with_the_teacher_s_confidence_for_equal_students():
    z, y = torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64)
    teacher = torch.tensor([[0.0, 0, 0, 0], [1.0, 0, 0, 0], [3.0, 0, 0, 0]])
    weights = gradient_weights(Predictions(z, teacher, y)).tolist()
    assert weights == sorted(weights)
    assert weights[0] == pytest.approx(0)


def test_the_metric_is_their_mean_weighted_by_the_gradient_of_labels():
    z, v, y = sample()
    missing = 1 - z.softmax(-1).gather(1, y[:, None])[:, 0]
    expected = (gradient_weights(Predictions(z, v, y)) * missing).sum() / missing.sum()
    assert gradient_weight(Predictions(z, v, y)).value == pytest.approx(float(expected))


def test_without_gradient_there_is_no_weight():
    y = torch.zeros(2, dtype=torch.int64)
    sure = torch.tensor([[math.inf, 0.0]]).nan_to_num(posinf=1e4).expand(2, 2)
    assert math.isnan(gradient_weight(Predictions(sure, sure, y)).value)
