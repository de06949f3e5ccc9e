"""Kernels for other tokenizers: sorted probabilities (ULD) and likelihoods of the same bytes (ALM)."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional import binary_likelihood_kl, sorted_probability_distance
from limbeck.functional.across_tokenizers import check_likelihood_temperature


def rows(*shape, seed=0, scale=3.0):
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def reference(student, teacher, temperature):
    """The sorted distance with lists of Python."""
    values = []
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        both = []
        for logits in (ours, theirs):
            weights = [math.exp(logit / temperature) for logit in logits]
            both.append(sorted((weight / sum(weights) for weight in weights), reverse=True))
        size = max(map(len, both))
        padded = [side + [0.0] * (size - len(side)) for side in both]
        values.append(sum(abs(a - b) for a, b in zip(*padded, strict=True)))
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("sizes", [(7, 7), (5, 9), (9, 5), (1, 4)])
def test_the_sorted_distance_is_that_of_sorted_lists(sizes, temperature):
    student, teacher = rows(6, sizes[0]), rows(6, sizes[1], seed=1)
    values = sorted_probability_distance(student, teacher, temperature=temperature)
    torch.testing.assert_close(values, reference(student, teacher, temperature), rtol=1e-12, atol=1e-14)
    assert bool((values >= 0).all() and (values <= 2).all())


def test_the_order_of_the_classes_does_not_matter_and_equal_distributions_give_0():
    student, teacher = rows(4, 8), rows(4, 11, seed=1)
    orders = [torch.randperm(size, generator=torch.Generator().manual_seed(size)) for size in (8, 11)]
    values = sorted_probability_distance(student, teacher)
    torch.testing.assert_close(sorted_probability_distance(student[:, orders[0]], teacher), values)
    torch.testing.assert_close(sorted_probability_distance(student, teacher[:, orders[1]]), values)
    same = student[:, orders[0]]
    assert float(sorted_probability_distance(student, same).max()) < 1e-15
    wider = torch.cat([same, torch.full((4, 3), -torch.inf, dtype=torch.float64)], 1)
    assert float(sorted_probability_distance(student, wider).max()) < 1e-15


def test_the_sorted_distance_is_symmetric_and_that_of_a_transport():
    from scipy.stats import wasserstein_distance

    student, teacher = rows(3, 6), rows(3, 6, seed=1)
    values = sorted_probability_distance(student, teacher)
    torch.testing.assert_close(values, sorted_probability_distance(teacher, student))
    # The sorted values as samples: their Wasserstein-1 distance is the mean of the differences.
    for value, ours, theirs in zip(values, student.softmax(1), teacher.softmax(1), strict=True):
        assert float(value) == pytest.approx(6 * wasserstein_distance(ours.numpy(), theirs.numpy()))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_gradient_of_the_sorted_distance_is_that_of_finite_differences(temperature):
    student, teacher = rows(3, 5).requires_grad_(), rows(3, 8, seed=1)
    assert torch.autograd.gradcheck(
        lambda logits: sorted_probability_distance(logits, teacher, temperature=temperature), (student,)
    )


def test_classes_of_minus_infinity_have_no_probability_and_a_finite_gradient():
    student = rows(2, 5)
    student[0, 2], student[1] = -torch.inf, -torch.inf
    student.requires_grad_()
    teacher = rows(2, 4, seed=1)
    values = sorted_probability_distance(student, teacher)
    values.sum().backward()
    assert bool(values.isfinite().all())
    assert bool(student.grad.isfinite().all())
    assert float(values[1].detach()) == pytest.approx(1.0)  # nothing on one side


def bernoulli_kl(p, q):
    total = 0.0
    for a, b in ((p, q), (1 - p, 1 - q)):
        total += a * math.log(a / b) if a else 0.0
    return total


@pytest.mark.parametrize("tau", [1.0, 7.0, 100.0])
def test_the_likelihood_divergence_is_that_of_two_coins(tau):
    log_p, log_q = -rows(20).abs() - 1e-3, -rows(20, seed=1).abs() - 1e-3
    values = binary_likelihood_kl(log_q, log_p, likelihood_temperature=tau)
    expected = [
        tau * bernoulli_kl(math.exp(a / tau), math.exp(b / tau))
        for a, b in zip(log_p.tolist(), log_q.tolist(), strict=True)
    ]
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    assert bool((values >= 0).all())
    assert bool((binary_likelihood_kl(log_p, log_p, likelihood_temperature=tau) == 0).all())


def test_a_large_temperature_gives_the_limit():
    log_p, log_q = -rows(20).abs() - 0.1, -rows(20, seed=1).abs() - 0.1
    a, b = -log_p, -log_q
    torch.testing.assert_close(
        binary_likelihood_kl(log_q, log_p, likelihood_temperature=1e6), a * (a / b).log() - a + b, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("tau", [1.0, 100.0])
def test_the_gradient_of_the_likelihood_divergence_is_that_of_finite_differences(tau):
    log_p, log_q = -rows(12).abs() - 1e-2, (-rows(12, seed=1).abs() - 1e-2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda value: binary_likelihood_kl(value, log_p, likelihood_temperature=tau), (log_q,)
    )


@pytest.mark.parametrize("tau", [1.0, 100.0])
def test_likelihoods_of_0_and_1_have_no_nan(tau):
    edges = torch.tensor([0.0, -1e-9, -1e-6, -1.0, -50.0, -1e5, -torch.inf])
    log_q = edges.repeat(len(edges)).requires_grad_()
    log_p = edges.repeat_interleave(len(edges))
    values = binary_likelihood_kl(log_q, log_p, likelihood_temperature=tau)
    assert not bool(values.isnan().any())
    impossible = (log_q == -torch.inf) & (log_p > -torch.inf) & ((log_p / tau).exp() > 0)
    assert torch.equal(values == torch.inf, impossible)
    assert bool((values[log_p == log_q] == 0).all())
    values.masked_fill(values == torch.inf, 0).sum().backward()
    assert not bool(log_q.grad.isnan().any())


def test_small_differences_are_exact_in_float32():
    log_p = torch.tensor([-1e-4, -0.5, -30.0])
    log_q = log_p * (1 + 1e-3)
    exact = binary_likelihood_kl(log_q.double(), log_p.double(), likelihood_temperature=100.0)
    torch.testing.assert_close(
        binary_likelihood_kl(log_q, log_p, likelihood_temperature=100.0).double(), exact, rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, "1", True])
def test_wrong_arguments_are_refused(value):
    with pytest.raises(ArgumentError):
        check_likelihood_temperature(value)


def test_other_positions_are_refused():
    with pytest.raises(LimbeckError, match=r"\[2\]"):
        sorted_probability_distance(torch.zeros(2, 3), torch.zeros(1, 3))
    with pytest.raises(LimbeckError, match="2 values"):
        binary_likelihood_kl(torch.zeros(2), torch.zeros(3))
