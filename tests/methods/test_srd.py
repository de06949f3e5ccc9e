"""The simple recipe: both losses by plain loops, what does not change them, the fixed point of the projector."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.errors import LimbeckError, UnknownNameError
from limbeck.functional import squared_error
from limbeck.methods import make
from limbeck.methods.features.srd import PooledProjector, log_correlation_error, log_sum_error
from limbeck.testing import check_head
from methods.planted import Planted
from methods.transformers import kept_tokens, random


def rows_of(features, mask):
    if features.ndim == 2:
        return features.tolist()
    if features.ndim == 4:
        return [[float(channel.mean()) for channel in example] for example in features]
    rows = []
    for n, example in enumerate(features):
        kept = kept_tokens(mask, n, len(example))
        rows.append([sum(float(example[t, d]) for t in kept) / max(len(kept), 1) for d in range(example.shape[-1])])
    return rows


def normalized(rows, eps):
    columns = []
    for column in zip(*rows, strict=True):
        mean = sum(column) / len(column)
        variance = sum((x - mean) ** 2 for x in column) / len(column)
        columns.append([(x - mean) / math.sqrt(variance + eps) for x in column])
    return columns


def brute_force_log_sum_error(student, teacher, mask=None, *, power=4.0, eps=1e-4):
    s, t = (normalized(rows_of(x, mask), eps) for x in (student, teacher))
    total = sum(abs(a - b) ** power for p, q in zip(s, t, strict=True) for a, b in zip(p, q, strict=True))
    return math.log(max(total, torch.finfo(torch.float64).tiny))


def brute_force_log_correlation_error(student, teacher, mask=None, *, power=4.0, eps=1e-4):
    s, t = (normalized(rows_of(x, mask), eps) for x in (student, teacher))
    correlations = [sum(a * b for a, b in zip(p, q, strict=True)) / len(p) for p, q in zip(s, t, strict=True)]
    return math.log(sum(abs(c - 1) ** power for c in correlations) + 1e-5)


@pytest.mark.parametrize("shape", [(7, 5), (4, 3, 5), (4, 5, 3, 3)])
def test_the_losses_are_those_of_the_loops(shape):
    s, t = random(*shape), random(*shape, seed=1)
    mask = torch.arange(3) < torch.tensor([[3], [1], [2], [3]]) if len(shape) == 3 else None
    for options in ({}, {"power": 5.0}, {"power": 1.0, "eps": 0.1}):
        value = float(log_sum_error(s, t, mask, **options))
        assert value == pytest.approx(brute_force_log_sum_error(s, t, mask, **options))
        value = float(log_correlation_error(s, t, mask, **options))
        assert value == pytest.approx(brute_force_log_correlation_error(s, t, mask, **options))


def test_the_numbers_of_the_correlation_form():
    t = random(64, 32)
    scale, shift = random(32, seed=1).exp(), random(32, seed=2)
    assert float(log_correlation_error(t * scale + shift, t, eps=0.0)) == pytest.approx(math.log(1e-5), abs=1e-6)
    assert float(log_correlation_error(-t, t, eps=0.0)) == pytest.approx(math.log(32 * 2**4 + 1e-5))
    moved = log_sum_error(t * scale + shift, random(64, 32, seed=3), eps=0.0)
    torch.testing.assert_close(moved, log_sum_error(t, random(64, 32, seed=3), eps=0.0))


def test_its_gradient_does_not_fade_with_the_errors_and_favors_the_largest():
    e = random(5, 4).requires_grad_()
    value = e.abs().pow(4).sum().log()  # the outer part of the loss, of given errors
    (slope,) = torch.autograd.grad(value, e)
    torch.testing.assert_close(slope, 4 * e.abs() ** 3 * e.sign() / (e.abs() ** 4).sum())
    small = (0.1 * e).detach().requires_grad_()
    (steeper,) = torch.autograd.grad(small.abs().pow(4).sum().log(), small)
    torch.testing.assert_close(steeper, 10 * slope)
    largest = float(e.detach().abs().max())
    assert float((e.detach().abs() ** 200).sum().log()) / 200 == pytest.approx(math.log(largest), abs=0.02)


def test_equal_features_and_single_examples_are_finite():
    x = random(4, 3).requires_grad_()
    value = log_sum_error(x, x.detach())
    assert value.isfinite()
    assert torch.autograd.grad(value, x)[0].abs().max() == 0
    assert log_sum_error(x[:1], random(1, 3, seed=1)).isfinite()
    assert log_correlation_error(x[:1], random(1, 3, seed=1)).isfinite()


def test_a_projector_without_normalization_holds_the_regression_of_the_teacher_on_the_student():
    s, t = random(40, 3), random(40, 5, seed=1)
    w = torch.zeros(3, 5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([w], max_iter=100, tolerance_grad=1e-12)

    def closure():
        optimizer.zero_grad()
        loss = squared_error(s @ w, t).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(w.detach(), torch.linalg.solve(s.T @ s, s.T @ t), rtol=1e-5, atol=1e-6)


def test_the_projector_pools_maps_and_keeps_tokens():
    check_head(PooledProjector, torch.randn(4, 3), torch.randn(4, 5))
    head = PooledProjector()
    head.shape(torch.zeros(2, 3, 4, 4), torch.zeros(2, 6, 2, 2))
    assert head(torch.zeros(2, 3, 4, 4)).shape == (2, 6)
    with pytest.raises(LimbeckError, match="already built"):
        head.shape(torch.zeros(2, 4), torch.zeros(2, 6))
    tokens = PooledProjector()
    tokens.shape(torch.zeros(2, 5, 3), torch.zeros(2, 5, 6))
    assert tokens(torch.zeros(2, 5, 3)).shape == (2, 5, 6)


def test_it_helps_beside_the_student_alone():
    planted = Planted()
    arguments = {"teacher": planted.truth, "at": "layer2", "student_at": "layer2"}
    alone = planted.accuracy(planted.alone(epochs=30))
    assert planted.accuracy(planted.learn(make("srd", **arguments), epochs=30).student) > alone + 0.03


def test_wrong_arguments_are_refused_when_it_is_built():
    with pytest.raises(UnknownNameError, match="correlation"):
        make("srd", teacher=torch.nn.Linear(2, 2), at="a", student_at="b", form="correlate")
    with pytest.raises(LimbeckError):
        make("srd", teacher=torch.nn.Linear(2, 2), at="a", student_at="b", power=0.0)
