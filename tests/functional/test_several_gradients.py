"""Kernels under is_grads_batched, vectorized Jacobians and make_fx, with zero classes, and when memory runs out."""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from limbeck.functional import (
    binary_cross_entropy,
    binary_kl_divergence,
    coarse_logits,
    cross_entropy,
    gkd_jensen_shannon,
    jensen_shannon,
    kl_divergence,
    label_smoothing,
    logit_squared_error,
    probability_squared_error,
    reverse_kl,
    sampled_kl_divergence,
    skew_kl,
    skew_reverse_kl,
    squared_error,
    state_squared_error,
    target_squared_error,
    total_variation,
)

DIVERGENCES = [
    gkd_jensen_shannon,
    jensen_shannon,
    kl_divergence,
    logit_squared_error,
    probability_squared_error,
    reverse_kl,
    skew_kl,
    skew_reverse_kl,
    total_variation,
]
PAIRED = [*DIVERGENCES, binary_kl_divergence, squared_error, state_squared_error]
SMALL, LARGE = (4, 20), (4, (1 << 13) + 5)


def with_second(kernel):
    """A kernel of the student and something else, with that something else as a function of a shape."""
    if kernel in (cross_entropy, label_smoothing):
        return (lambda z, labels: kernel(z, labels=labels)), lambda shape: torch.tensor([0, 3, -100, 1])
    if kernel in (target_squared_error, binary_cross_entropy):
        return (lambda z, targets: kernel(z, targets=targets)), torch.rand
    if kernel is coarse_logits:
        return (lambda z, ids: kernel(z, ids)), lambda shape: torch.tensor([[0, 2], [1, 3], [3, 4], [0, 1]])
    if kernel is sampled_kl_divergence:
        ids = torch.tensor([[0, 2], [1, 3], [3, 4], [0, 1]])
        return (lambda z, w: kernel(z, ids=ids, weights=w, entropy=torch.zeros(4))), lambda shape: torch.rand(4, 2)
    return kernel, torch.randn


ALONE = [cross_entropy, label_smoothing, target_squared_error, binary_cross_entropy, coarse_logits]


@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("kernel", [*PAIRED, *ALONE, sampled_kl_divergence], ids=lambda kernel: kernel.__name__)
def test_gradients_of_several_values_at_once(kernel, shape):
    function, other = with_second(kernel)
    second = other(shape)
    leaves = [torch.randn(shape, requires_grad=True)]
    if kernel in PAIRED:
        leaves.append(second.requires_grad_())
    for wanted in (leaves[:1], leaves):
        value = function(leaves[0], second if wanted is leaves else second.detach())
        directions = torch.randn(3, *value.shape)
        directions[0].view(-1)[0] = 0.0
        one_by_one = [torch.autograd.grad(value, wanted, one, retain_graph=True) for one in directions]
        at_once = torch.autograd.grad(value, wanted, directions, is_grads_batched=True)
        for mine, theirs in zip(at_once, zip(*one_by_one, strict=True), strict=True):
            torch.testing.assert_close(mine, torch.stack(theirs))


@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("kernel", [*PAIRED, *ALONE, sampled_kl_divergence], ids=lambda kernel: kernel.__name__)
def test_the_jacobian_in_one_backward_pass(kernel, shape):
    function, other = with_second(kernel)
    student, second = torch.randn(shape), other(shape)

    def means(z):
        return function(z, second).reshape(4, -1).mean(-1)

    both = [torch.autograd.functional.jacobian(means, student, vectorize=vectorize) for vectorize in (True, False)]
    torch.testing.assert_close(*both)


@pytest.mark.parametrize("shape", [(0,), (4, 0), (2, 3, 0)])
@pytest.mark.parametrize("kernel", DIVERGENCES, ids=lambda kernel: kernel.__name__)
def test_zero_classes_give_zero(kernel, shape):
    student = torch.zeros(shape, requires_grad=True)
    value = kernel(student, torch.zeros(shape))
    value.sum().backward()
    assert torch.equal(value, torch.zeros(shape[:-1]))
    assert student.grad.shape == shape


@pytest.mark.parametrize("kernel", [kl_divergence, binary_kl_divergence, logit_squared_error])
def test_a_kernel_can_be_traced(kernel):
    student, teacher = torch.randn(SMALL), torch.randn(SMALL)
    traced = make_fx(lambda z, v: kernel(z, v))(student, teacher)
    torch.testing.assert_close(traced(student, teacher), kernel(student, teacher))


@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("kernel", [kl_divergence, binary_kl_divergence, logit_squared_error])
def test_a_lack_of_memory_is_raised_at_once(kernel, shape, monkeypatch):
    calls = []

    def refuse(*args, **options):
        calls.append(args)
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    student, teacher = torch.randn(shape), torch.randn(shape)
    monkeypatch.setattr(torch.autograd.Function, "apply", refuse)
    with pytest.raises(RuntimeError, match="allocate"):
        kernel(student, teacher)
    assert len(calls) == 1
