"""The closed-form gradients work wherever automatic ones would."""

from __future__ import annotations

import pytest
import torch

from limbeck.functional import jensen_shannon, kl_divergence, skew_kl

KERNELS = [kl_divergence, jensen_shannon, skew_kl]


def by_autograd(student, teacher):
    log_q, log_p = student.log_softmax(-1), teacher.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def test_first_and_second_gradients_are_those_of_automatic_differentiation():
    student, teacher = (torch.randn(3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    found = []
    for kernel in (kl_divergence, by_autograd):
        first = torch.autograd.grad(kernel(student, teacher).sum(), (student, teacher), create_graph=True)
        plain = torch.autograd.grad(kernel(student, teacher).sum(), (student, teacher))
        second = torch.autograd.grad(first[0].square().sum() + first[1].square().sum(), (student, teacher))
        found.append([*first, *plain, *second])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("kernel", KERNELS)
def test_each_argument_alone_gets_the_gradient_that_it_gets_with_the_other(kernel):
    pair = [torch.randn(3, 5, requires_grad=True) for _ in range(2)]
    both = torch.autograd.grad(kernel(*pair).sum(), pair)
    for side in (0, 1):
        alone = [leaf if i == side else leaf.detach() for i, leaf in enumerate(pair)]
        assert torch.equal(torch.autograd.grad(kernel(*alone).sum(), alone[side])[0], both[side])


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_gradient_for_each_example_through_vmap(kernel):
    student, teacher = torch.randn(4, 5), torch.randn(4, 5)
    each = torch.func.vmap(torch.func.grad(lambda s, t: kernel(s, t)))(student, teacher)
    leaf = student.clone().requires_grad_()
    torch.testing.assert_close(each, torch.autograd.grad(kernel(leaf, teacher).sum(), leaf)[0])


@pytest.mark.parametrize("kernel", KERNELS)
def test_without_gradient_nothing_is_recorded(kernel):
    student, teacher = torch.randn(4, 5, requires_grad=True), torch.randn(4, 5)
    with torch.no_grad():
        assert not kernel(student, teacher).requires_grad
    assert kernel(student, teacher).requires_grad
    assert not kernel(student.detach(), teacher).requires_grad


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_empty_batch_trains_on_nothing(kernel):
    student = torch.zeros(0, 5, requires_grad=True)
    value = kernel(student, torch.zeros(0, 5))
    value.sum().backward()
    assert value.shape == (0,)
    assert student.grad.shape == (0, 5)


def test_two_dtypes_meet_in_the_wider_without_a_difference():
    logits = torch.randn(8, 10).bfloat16()
    for student, teacher, wide in (
        (logits, logits.double(), torch.float64),
        (logits.float(), logits.double(), torch.float64),
        (logits, logits.float(), torch.float32),
        (logits, logits.half(), torch.float32),
    ):
        value = kl_divergence(student, teacher)
        assert (value == 0).all()
        assert value.dtype == wide


def test_a_layout_in_memory_is_no_difference():
    logits = torch.randn(10, 8).t()
    assert (kl_divergence(logits, logits.contiguous()) == 0).all()
