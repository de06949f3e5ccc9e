"""Divergences from a mixture against their definitions, and continuous at the ends."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.functional import gkd_jensen_shannon, jensen_shannon, kl_divergence, reverse_kl, skew_kl, skew_reverse_kl

INF = float("inf")
MIXED = [(jensen_shannon, "mixture"), (gkd_jensen_shannon, "mixture"), (skew_kl, "skew"), (skew_reverse_kl, "skew")]


def drawn(*shape: int, scale: float = 3.0, dtype=torch.float64):
    return scale * torch.randn(*shape, dtype=dtype), scale * torch.randn(*shape, dtype=dtype)


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def mixed(share, p, q):
    return [share * a + (1 - share) * b for a, b in zip(p, q, strict=True)]


def gkd(p, q, b):
    return b * kl(p, mixed(b, p, q)) + (1 - b) * kl(q, mixed(b, p, q))


DEFINITIONS = [
    (jensen_shannon, "mixture", lambda p, q, b: gkd(p, q, b) / (b * (1 - b))),
    (gkd_jensen_shannon, "mixture", gkd),
    (skew_kl, "skew", lambda p, q, a: kl(p, mixed(a, p, q))),
    (skew_reverse_kl, "skew", lambda p, q, a: kl(q, mixed(a, q, p))),
]


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize(("kernel", "name", "of"), DEFINITIONS, ids=lambda v: getattr(v, "__name__", ""))
def test_it_is_its_definition(kernel, name, of, share, temperature):
    student, teacher = drawn(6, 7)
    q, p = ((logits / temperature).softmax(-1).tolist() for logits in (student, teacher))
    wanted = [temperature**2 * of(a, b, share) for a, b in zip(p, q, strict=True)]
    value = kernel(student, teacher, temperature=temperature, **{name: share})
    torch.testing.assert_close(value, torch.tensor(wanted, dtype=torch.float64), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_jensen_shannon_goes_to_kl_at_both_ends_also_in_float32(dtype):
    student, teacher = drawn(64, 10, scale=1.0, dtype=dtype)
    exact = [kl_divergence(student.double(), teacher.double()), reverse_kl(student.double(), teacher.double())]
    for end, near, wanted in ((0.0, 1e-6, exact[0]), (1.0, 1 - 1e-6, exact[1])):
        torch.testing.assert_close(jensen_shannon(student, teacher, mixture=end).double(), wanted, rtol=1e-5, atol=0)
        torch.testing.assert_close(jensen_shannon(student, teacher, mixture=near).double(), wanted, rtol=1e-4, atol=0)


@pytest.mark.parametrize("share", [1e-2, 1e-6, 1e-12, 1 - 1e-6])
@pytest.mark.parametrize(("kernel", "name"), MIXED, ids=lambda v: getattr(v, "__name__", ""))
def test_float32_agrees_with_float64_at_every_share(kernel, name, share):
    student, teacher = drawn(64, 10, dtype=torch.float32)
    student[:8] *= 20
    value = kernel(student, teacher, **{name: share}).double()
    exact = kernel(student.double(), teacher.double(), **{name: share})
    # Near 1 a skewed divergence is a sum of terms as large as 1 - skew that nearly cancel.
    torch.testing.assert_close(value, exact, rtol=1e-4, atol=1e-6 * max(exact.max().item(), 1 - share))


@pytest.mark.parametrize("share", [1e-6, 0.3, 1 - 1e-6])
@pytest.mark.parametrize(("kernel", "name"), MIXED, ids=lambda v: getattr(v, "__name__", ""))
def test_float32_gradients_agree_with_float64(kernel, name, share):
    student, teacher = drawn(64, 10, dtype=torch.float32)
    slopes = []
    for dtype in (torch.float32, torch.float64):
        leaf = student.to(dtype).requires_grad_()
        slopes += torch.autograd.grad(kernel(leaf, teacher.to(dtype), **{name: share}).sum(), leaf)
    torch.testing.assert_close(slopes[0].double(), slopes[1], rtol=1e-3, atol=1e-6 * slopes[1].abs().max().item())


def test_gradients_are_continuous_at_the_ends():
    student, teacher = drawn(16, 10, scale=1.0)
    student.requires_grad_()

    def slope(value):
        return torch.autograd.grad(value.sum(), student)[0]

    near_kl = slope(jensen_shannon(student, teacher, mixture=1e-7))
    torch.testing.assert_close(near_kl, slope(kl_divergence(student, teacher)), rtol=1e-4, atol=1e-6)
    near_reverse = slope(jensen_shannon(student, teacher, mixture=1 - 1e-7))
    torch.testing.assert_close(near_reverse, slope(reverse_kl(student, teacher)), rtol=1e-4, atol=1e-6)
    near_skew = slope(skew_kl(student, teacher, skew=1e-7))
    torch.testing.assert_close(near_skew, slope(kl_divergence(student, teacher)), rtol=1e-4, atol=1e-6)


def test_skews_go_to_kl_at_0_and_vanish_at_1():
    student, teacher = drawn(16, 10)
    assert torch.equal(skew_kl(student, teacher, skew=0.0), kl_divergence(student, teacher))
    assert torch.equal(skew_reverse_kl(student, teacher, skew=0.0), reverse_kl(student, teacher))
    torch.testing.assert_close(skew_kl(student, teacher, skew=1e-9), kl_divergence(student, teacher), rtol=1e-5, atol=0)
    for kernel in (skew_kl, skew_reverse_kl):
        assert (kernel(student, teacher, skew=1.0) == 0).all()
        assert (kernel(student, teacher, skew=1 - 1e-9) < 1e-6).all()


@pytest.mark.parametrize("mixture", [0.0, 1.0])
def test_gkd_vanishes_at_both_ends_also_where_one_side_is_masked(mixture):
    student, teacher = drawn(4, 5)
    student[0, 1] = teacher[1, 2] = -INF
    student.requires_grad_()
    value = gkd_jensen_shannon(student, teacher, mixture=mixture)
    value.sum().backward()
    assert (value == 0).all()
    assert (student.grad == 0).all()


def test_gkd_is_jensen_shannon_without_its_scale():
    student, teacher = drawn(16, 10)
    for b in (0.1, 0.5, 0.7):
        scaled = b * (1 - b) * jensen_shannon(student, teacher, mixture=b)
        torch.testing.assert_close(gkd_jensen_shannon(student, teacher, mixture=b), scaled)


def test_symmetries():
    student, teacher = drawn(16, 10)
    for b in (0.5, 0.2):
        swapped = jensen_shannon(teacher, student, mixture=1 - b)
        torch.testing.assert_close(jensen_shannon(student, teacher, mixture=b), swapped)
    assert torch.equal(skew_reverse_kl(student, teacher, skew=0.2), skew_kl(teacher, student, skew=0.2))


def test_bounds_are_reached_by_distributions_that_share_nothing():
    student, teacher = torch.tensor([[0.0, -INF]]).double(), torch.tensor([[-INF, 0.0]]).double()
    assert gkd_jensen_shannon(student, teacher).item() == pytest.approx(math.log(2))
    assert skew_kl(student, teacher, skew=0.1).item() == pytest.approx(math.log(10))
    assert skew_reverse_kl(student, teacher, skew=0.1, temperature=2.0).item() == pytest.approx(4 * math.log(10))
    assert kl_divergence(student, teacher).item() == INF


@pytest.mark.parametrize("share", [0.0, 1e-40, 1e-12, 0.5, 1.0])
@pytest.mark.parametrize(("kernel", "name"), MIXED, ids=lambda v: getattr(v, "__name__", ""))
def test_huge_logits_give_finite_values_and_gradients_in_both_arguments(kernel, name, share):
    signs = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [1.0, 1.0, -1.0]])
    student, teacher = (1e30 * signs).requires_grad_(), (1e30 * signs.roll(1, 0)).requires_grad_()
    value = kernel(student, teacher, temperature=0.05, **{name: share})
    value.sum().backward()
    assert value.isfinite().all()
    assert (value >= 0).all()
    assert student.grad.isfinite().all()
    assert teacher.grad.isfinite().all()


@pytest.mark.parametrize(("kernel", "name"), MIXED, ids=lambda v: getattr(v, "__name__", ""))
def test_a_row_of_nothing_is_0_in_both_and_infinite_in_one(kernel, name):
    student, teacher = drawn(3, 4)
    student[:2] = teacher[1:] = -INF
    assert kernel(student, teacher, **{name: 0.3}).tolist() == [INF, 0.0, INF]


@pytest.mark.parametrize(("kernel", "name"), MIXED, ids=lambda v: getattr(v, "__name__", ""))
def test_nan_is_never_hidden(kernel, name):
    student, teacher = drawn(2, 4)
    student[0, 2] = float("nan")
    assert kernel(student, teacher, **{name: 0.3}).isnan().tolist() == [True, False]


LOGIT = st.one_of(st.floats(-50, 50), st.sampled_from([-1e30, 1e30, -INF, 0.0]))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data(), st.integers(2, 6), st.floats(0.001, 0.999))
def test_never_negative_and_never_nan(data, classes, share):
    row = st.lists(LOGIT, min_size=classes, max_size=classes)
    student, teacher = torch.tensor([data.draw(row)]), torch.tensor([data.draw(row)])
    student.requires_grad_()
    for kernel, name in MIXED:
        value = kernel(student, teacher, **{name: share})
        (slope,) = torch.autograd.grad(value.sum(), student)
        assert value.item() >= -1e-5 / min(share, 1 - share), kernel.__name__
        assert slope.isfinite().all(), kernel.__name__


@pytest.mark.parametrize("mixture", [1e-9, 1e-14, 1e-18, 1e-25, 1e-29])
def test_the_limit_of_jensen_shannon_is_reached_without_a_step(mixture):
    student = torch.tensor([[5.0, 0.0, -5.0, 1.0]], dtype=torch.float64)
    teacher = torch.tensor([[-3.0, 2.0, 4.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(
        jensen_shannon(student, teacher, mixture=mixture), kl_divergence(student, teacher), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("mixture", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("spread", [1e-3, 0.05, 0.4])
def test_rows_near_equality_are_precise_also_with_a_class_that_is_far_apart(mixture, spread):
    draw = torch.Generator().manual_seed(0)
    teacher = 2 * torch.randn(6, 3000, generator=draw, dtype=torch.float64)
    student = teacher + spread * torch.randn(6, 3000, generator=draw, dtype=torch.float64) + 1.5
    teacher[:, 0], student[:, 0] = -6.0, -6.0 + 3 + 1.5  # a rare class, of which the student thinks much more
    student[5] = torch.randn(3000, generator=draw, dtype=torch.float64)  # far, in a block of near rows
    single = student.float().requires_grad_()
    value = jensen_shannon(single, teacher.float(), mixture=mixture)
    wide = single.detach().double().requires_grad_()
    log_q, log_p = wide.log_softmax(-1), teacher.float().double().log_softmax(-1)
    log_m = torch.logaddexp(log_p + math.log(mixture), log_q + math.log1p(-mixture))
    forward, back = ((a.exp() * (a - log_m)).sum(-1) for a in (log_p, log_q))
    exact = forward / (1 - mixture) + back / mixture
    torch.testing.assert_close(value.double(), exact, rtol=3e-6, atol=1e-12)
    slope = torch.autograd.grad(value.sum(), single)[0].double()
    expected = torch.autograd.grad(exact.sum(), wide)[0]
    assert float((slope - expected).norm()) < 3e-4 * float(expected.norm())
