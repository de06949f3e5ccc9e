"""A divergence is never negative, and right near equality; it has derivatives of every kind; blocks change nothing."""

from __future__ import annotations

import pytest
import torch

from limbeck.errors import LimbeckError
from limbeck.functional import (
    binary_cross_entropy,
    binary_kl_divergence,
    blockwise,
    cross_entropy,
    gkd_jensen_shannon,
    jensen_shannon,
    kl_divergence,
    label_smoothing,
    logit_squared_error,
    reverse_kl,
    skew_kl,
    skew_reverse_kl,
    squared_error,
    total_variation,
)

INF = float("inf")
SHAPED = {
    "kl": (kl_divergence, {}),
    "reverse": (reverse_kl, {}),
    "jensen_shannon": (jensen_shannon, {"mixture": 0.5}),
    "jensen_shannon 1e-6": (jensen_shannon, {"mixture": 1e-6}),
    "gkd": (gkd_jensen_shannon, {"mixture": 0.1}),
    "skew": (skew_kl, {"skew": 0.1}),
    "skew 0.99": (skew_kl, {"skew": 0.99}),
    "skew_reverse": (skew_reverse_kl, {"skew": 0.1}),
    "binary": (binary_kl_divergence, {}),
}
each_shaped = pytest.mark.parametrize(("kernel", "hyper"), SHAPED.values(), ids=SHAPED)


@each_shaped
@pytest.mark.parametrize("temperature", [1.0, 4.0, 100.0])
@pytest.mark.parametrize("apart", [1e-5, 1e-3, 0.1, 1.0])
def test_no_value_is_negative_and_the_mean_is_right(kernel, hyper, temperature, apart):
    for classes in (3, 40):
        teacher = 2 * torch.randn(300, classes)
        student = teacher + apart * torch.randn_like(teacher)
        value = kernel(student, teacher, temperature=temperature, **hyper).double()
        exact = kernel(student.double(), teacher.double(), temperature=temperature, **hyper)
        assert (value >= 0).all()
        torch.testing.assert_close(value.mean(), exact.mean(), rtol=1e-6, atol=0)
        # What is far below the mean is a difference of logits that are hardly apart in float32.
        torch.testing.assert_close(value, exact, rtol=1e-5, atol=1e-5 * float(exact.mean()))


@each_shaped
def test_near_equality_it_is_half_the_variance_of_the_difference(kernel, hyper):
    """Against mathematics, not against the same formula in float64; shares scale it."""
    factor = {skew_kl: 1 - hyper.get("skew", 0), skew_reverse_kl: 1 - hyper.get("skew", 0)}.get(kernel, 1.0) ** 2
    factor = hyper["mixture"] * (1 - hyper["mixture"]) if kernel is gkd_jensen_shannon else factor
    teacher, step = torch.randn(50, 6).double(), 1e-4 * torch.randn(50, 6).double()
    p = teacher.softmax(-1)
    wanted = 0.5 * ((p * step.square()).sum(-1) - (p * step).sum(-1).square())
    if kernel is binary_kl_divergence:
        wanted = 0.5 * step.square() * teacher.sigmoid() * (1 - teacher.sigmoid())
    value = kernel((teacher + step).float(), teacher.float(), **hyper).double()
    torch.testing.assert_close(value.mean(), factor * wanted.mean(), rtol=2e-3, atol=0)


@each_shaped
def test_masked_columns_change_nothing_near_equality(kernel, hyper):
    if kernel is binary_kl_divergence:
        return
    teacher = torch.randn(20, 8)
    student = teacher + 1e-3 * torch.randn_like(teacher)
    wanted = kernel(student, teacher, temperature=4.0, **hyper)
    dead = torch.full((20, 2), -INF)
    found = kernel(torch.cat([student, dead], 1), torch.cat([teacher, dead], 1), temperature=4.0, **hyper)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-12)


@each_shaped
def test_inside_transforms_it_is_as_good(kernel, hyper):
    teacher = torch.randn(20, 8)
    student = teacher + 1e-3 * torch.randn_like(teacher)
    each = torch.func.vmap(lambda s, t: kernel(s, t, temperature=4.0, **hyper))(student, teacher)
    torch.testing.assert_close(each, kernel(student, teacher, temperature=4.0, **hyper), rtol=1e-5, atol=1e-12)


@each_shaped
def test_forward_mode_and_hessians(kernel, hyper):
    student, teacher, tangent = (torch.randn(5, dtype=torch.float64) for _ in range(3))

    def value(s):
        return kernel(s, teacher, temperature=2.0, **hyper).sum()

    _, moved = torch.func.jvp(value, (student,), (tangent,))
    torch.testing.assert_close(moved, (torch.func.grad(value)(student) * tangent).sum())
    torch.testing.assert_close(torch.func.hessian(value)(student), torch.autograd.functional.hessian(value, student))


@pytest.mark.parametrize("kernel", [kl_divergence, skew_kl, total_variation, binary_kl_divergence])
def test_blocks_change_nothing_and_a_row_left_over_is_mended(kernel, monkeypatch):
    student, teacher = 3 * torch.randn(11, 5), 3 * torch.randn(11, 5)
    student[3, 2] = teacher[3, 2] = -INF
    student[5] = teacher[5]
    student[6] = teacher[6] + 40.0
    found = []
    for size in (blockwise.AT_ONCE, 15):
        for module in ("blockwise", "targets"):
            monkeypatch.setattr(f"limbeck.functional.{module}.AT_ONCE", size)
        monkeypatch.setattr(blockwise, "AT_MOST", size)
        monkeypatch.setattr(blockwise, "_KEPT", type(blockwise._KEPT)())
        one, other = student.clone().requires_grad_(), teacher.clone().requires_grad_()
        value = kernel(one, other, temperature=2.0)
        value.sum().backward()
        found.append((value.detach(), one.grad, other.grad))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs)
        assert mine.isfinite().all()


@pytest.mark.parametrize("kernel", [kl_divergence, skew_kl, total_variation, binary_kl_divergence, logit_squared_error])
def test_a_graph_that_is_kept_gives_the_same_gradient_again(kernel):
    student, teacher = torch.randn(4, 5, requires_grad=True), torch.randn(4, 5)
    value = kernel(student, teacher).sum()
    first = torch.autograd.grad(3 * value, student, retain_graph=True)[0].clone()
    again = torch.autograd.grad(3 * value, student, retain_graph=True)[0].clone()
    last = torch.autograd.grad(3 * value, student)[0]
    assert torch.equal(first, again)
    assert torch.equal(first, last)


@pytest.mark.parametrize("kernel", [kl_divergence, squared_error, logit_squared_error, binary_kl_divergence])
def test_meta_tensors_have_shapes(kernel):
    one = torch.zeros(2, 3, device="meta")
    assert kernel(one, one).device.type == "meta"


@pytest.mark.parametrize("kernel", [cross_entropy, label_smoothing])
def test_one_row_has_one_label(kernel):
    value = kernel(torch.zeros(3), labels=torch.tensor(0))
    assert value.shape == ()
    torch.testing.assert_close(value, torch.tensor(3.0).log())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kernel", [cross_entropy, label_smoothing])
def test_labels_that_are_no_whole_numbers_are_refused(kernel):
    with pytest.raises(LimbeckError, match=r"float32.*\.long\(\)"):
        kernel(torch.zeros(1, 3), labels=torch.tensor([1.7]))


def test_binary_cross_entropy_inside_transforms():
    student, targets = torch.randn(4, 3), torch.rand(4, 3)
    wanted = binary_cross_entropy(student, targets=targets)
    each = torch.func.vmap(lambda s, t: binary_cross_entropy(s, targets=t))(student, targets)
    torch.testing.assert_close(each, wanted)


def test_nothing_is_asked_of_answers_while_a_graph_is_traced(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert binary_cross_entropy(torch.zeros(1, 1), targets=torch.full((1, 1), 2.0)).shape == (1, 1)


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e300, 1e31])
def test_a_temperature_that_no_float_bears_is_refused_in_a_sentence(temperature):
    with pytest.raises(LimbeckError, match="temperature"):
        kl_divergence(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]), temperature=temperature)


def compared_in_float64(kernel, student, teacher, **hyper):
    """Values and gradients, in float32 and in float64."""
    for dtype in (torch.float32, torch.float64):
        leaf = student.to(dtype, copy=True).requires_grad_()
        value = kernel(leaf, teacher.to(dtype), **hyper)
        value.sum().backward()
        yield value.detach().double(), leaf.grad.double()


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_answers_that_are_near_among_many_that_are_far(few, temperature):
    teacher = 6 * torch.randn(50 if few else 40_000)
    student = teacher + 3 * torch.randn_like(teacher)
    student[::5] = teacher[::5]
    student[1::5] = teacher[1::5] + 1e-3
    (value, slope), (exact, its) = compared_in_float64(binary_kl_divergence, student, teacher, temperature=temperature)
    assert (value >= 0).all()
    assert (value[::5] == 0).all()
    assert (slope[::5] == 0).all()
    torch.testing.assert_close(value, exact, rtol=3e-6, atol=2e-7 * temperature**2)
    torch.testing.assert_close(slope, its, rtol=3e-6, atol=2e-7 * temperature)


@pytest.mark.parametrize("few", [True, False])
def test_answers_of_both_signs_are_as_good(few):
    """Yes and no are mirror images, also where an answer is nearly certain: neither may lose digits to 1 - p."""
    teacher, student = 12 * torch.randn(2, 30 if few else 40_000)
    (value, slope), (exact, its) = compared_in_float64(binary_kl_divergence, student, teacher)
    (mirrored, _), _ = compared_in_float64(binary_kl_divergence, -student, -teacher)
    assert torch.equal(mirrored, value)
    apart = (student - teacher).abs() > 1
    torch.testing.assert_close(value[apart], exact[apart], rtol=5e-6, atol=1e-25)
    torch.testing.assert_close(slope[apart], its[apart], rtol=5e-6, atol=1e-25)
    torch.testing.assert_close(value, exact, rtol=5e-6, atol=1e-7)


@pytest.mark.parametrize("near_first", [True, False])
def test_rows_that_are_unlike_those_that_were_looked_at(near_first):
    teacher = 3 * torch.randn(64, 900)
    student = teacher + 3 * torch.randn_like(teacher)
    near = torch.arange(64) % 5 == 0  # every fifth row says which way a block goes
    near = near if near_first else ~near
    student[near] = teacher[near] + 1e-3 * torch.randn(int(near.sum()), 900)
    (value, slope), (exact, its) = compared_in_float64(kl_divergence, student, teacher)
    torch.testing.assert_close(value[near], exact[near], rtol=2e-4, atol=0)
    torch.testing.assert_close(value, exact, rtol=1e-6, atol=1e-6 * float(exact[near].mean()))
    torch.testing.assert_close(slope, its, rtol=1e-5, atol=3e-7)


@pytest.mark.parametrize("shift", [0.0, -20.0, -60.0, -200.0])
def test_first_classes_that_are_rare_cost_no_digit(shift):
    teacher, student = 3 * torch.randn(2, 60, 700)
    teacher[:, :32] += shift
    student[::2, :32] += shift
    (value, slope), (exact, its) = compared_in_float64(kl_divergence, student, teacher)
    torch.testing.assert_close(value, exact, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(slope, its, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kernel", [kl_divergence, skew_kl, total_variation])
def test_memory_that_is_kept_grows_as_needed_and_can_be_given_back(kernel):
    blockwise.release_buffers()
    small, large = torch.randn(2, 40, 1000), torch.randn(2, 90, 1000)
    wanted = [kernel(*small.double()).float(), kernel(*large.double()).float()]
    for _ in range(2):
        for logits, value in zip((small, large, small), (*wanted, wanted[0]), strict=True):
            torch.testing.assert_close(kernel(*logits), value, rtol=1e-5, atol=1e-6)
    assert {len(one) for one in blockwise._KEPT.buffers.values()} == {90_000}
    blockwise.release_buffers()
    assert not blockwise._KEPT.__dict__


@pytest.mark.parametrize("apart", [0.3, 3.0])
def test_a_small_batch_is_found_as_a_large_one_is(apart):
    """Few values go another way; the rest of a large batch makes no difference to a row."""
    teacher = 3 * torch.randn(4000, 10)
    student = teacher + apart * torch.randn_like(teacher)
    whole = kl_divergence(student, teacher, temperature=2.0)
    torch.testing.assert_close(
        kl_divergence(student[:50], teacher[:50], temperature=2.0), whole[:50], rtol=3e-5, atol=2e-6
    )
