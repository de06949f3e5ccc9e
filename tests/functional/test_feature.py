"""Squared errors against their definitions."""

from __future__ import annotations

import pytest
import torch

from limbeck.functional import logit_squared_error, probability_squared_error, squared_error

INF = float("inf")


def drawn(*shape: int):
    return torch.randn(*shape, dtype=torch.float64), torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 4, 2, 2)])
def test_squared_error_is_one_mean_for_each_example(shape):
    student, teacher = drawn(*shape)
    value = squared_error(student, teacher)
    for i in range(3):
        a, b = student[i].flatten().tolist(), teacher[i].flatten().tolist()
        assert value[i].item() == pytest.approx(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / len(a))


def test_the_fitnets_hint_loss_is_half_the_number_of_features_times_it():
    student, teacher = drawn(3, 4, 2, 2)
    hint = 0.5 * (student - teacher).square().flatten(1).sum(1)
    torch.testing.assert_close(16 / 2 * squared_error(student, teacher), hint)


def test_logit_squared_error_is_half_the_variance_of_the_difference():
    student, teacher = drawn(6, 7)
    difference = student - teacher
    torch.testing.assert_close(logit_squared_error(student, teacher), difference.var(-1, correction=0) / 2)
    plain = logit_squared_error(student, teacher, centered=False)
    torch.testing.assert_close(plain, difference.square().mean(-1) / 2)


def test_logit_squared_error_has_the_gradient_that_hinton_gives():
    student, teacher = (logits - logits.mean(-1, keepdim=True) for logits in drawn(6, 7))
    student.requires_grad_()
    for centered in (True, False):
        value = logit_squared_error(student, teacher, centered=centered)
        (slope,) = torch.autograd.grad(value.sum(), student)
        torch.testing.assert_close(slope, (student - teacher).detach() / 7)


def test_only_the_centered_error_ignores_a_constant():
    student, teacher = drawn(6, 7)
    torch.testing.assert_close(logit_squared_error(student + 5, teacher), logit_squared_error(student, teacher))
    plain = logit_squared_error(student, student + 5, centered=False)
    torch.testing.assert_close(plain, torch.full_like(plain, 12.5))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_probability_squared_error_is_its_definition(temperature):
    student, teacher = drawn(6, 7)
    difference = (student / temperature).softmax(-1) - (teacher / temperature).softmax(-1)
    value = probability_squared_error(student, teacher, temperature=temperature)
    torch.testing.assert_close(value, temperature**2 * difference.square().mean(-1))


def test_probability_squared_error_reaches_its_bound():
    student, teacher = torch.tensor([[0.0, -1e30, -1e30]]), torch.tensor([[-1e30, 0.0, -1e30]])
    assert probability_squared_error(student, teacher, temperature=2.0).item() == pytest.approx(8 / 3)


def test_probability_squared_error_settles_at_high_temperature():
    student, teacher = drawn(6, 7)
    hot, hotter = (probability_squared_error(student, teacher, temperature=t) for t in (1e3, 1e4))
    torch.testing.assert_close(hot, hotter, rtol=0.02, atol=0)
    torch.testing.assert_close(hotter, 2 * logit_squared_error(student, teacher) / 49, rtol=0.01, atol=0)


@pytest.mark.parametrize("centered", [True, False])
def test_masked_in_one_alone_is_infinite_for_logits_with_finite_gradients(centered):
    student, teacher = drawn(3, 4)
    student[0, 1] = teacher[1, 1] = -INF
    student[2] = teacher[2] = -INF
    student.requires_grad_()
    value = logit_squared_error(student, teacher, centered=centered)
    assert value.tolist() == [INF, INF, 0.0]
    (slope,) = torch.autograd.grad(value.sum(), student)
    assert slope.isfinite().all()


def test_a_row_of_nothing_is_0_in_both_and_infinite_in_one():
    student, teacher = drawn(3, 4)
    student[:2] = teacher[1:] = -INF
    assert probability_squared_error(student, teacher).tolist() == [INF, 0.0, INF]
