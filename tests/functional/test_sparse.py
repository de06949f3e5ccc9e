"""Merged classes are exact, and divergences of them keep their guarantees."""

from __future__ import annotations

import functools

import pytest
import torch

from limbeck import functional as K
from limbeck.errors import LimbeckError
from limbeck.functional import coarse_logits, kernel, sampled_kl_divergence
from limbeck.functional.sparse import merged_values
from loops import loop

INF = float("inf")

DIVERGENCES = [
    (K.kl_divergence, {}),
    (K.reverse_kl, {}),
    (K.symmetric_kl, {}),
    (K.total_variation, {}),
    (K.jensen_shannon, {"mixture": 0.3}),
    (K.jensen_shannon, {"mixture": 0.0}),
    (K.jensen_shannon, {"mixture": 1.0}),
    (K.gkd_jensen_shannon, {"mixture": 0.5}),
    (K.skew_kl, {"skew": 0.1}),
    (K.skew_reverse_kl, {"skew": 0.1}),
    (K.alpha_beta_divergence, {"alpha": 0.2, "beta": 0.7}),
    (K.alpha_beta_divergence, {"alpha": 0.5, "beta": 0.5}),
]
every_divergence = pytest.mark.parametrize(
    ("divergence", "hyper"), DIVERGENCES, ids=[f"{d.__name__}{h}" for d, h in DIVERGENCES]
)
every_temperature = loop("temperature", [0.3, 1.0, 4.0, 20.0])


def pair(*shape):
    return 3 * torch.randn(*shape, dtype=torch.float64), 3 * torch.randn(*shape, dtype=torch.float64)


def merged(divergence, student, teacher, ids, **hyper):
    temperature = hyper.get("temperature", 1.0)
    sides = (coarse_logits(side, ids, temperature=temperature) for side in (student, teacher))
    return divergence(*sides, **hyper)


@every_temperature
def test_buckets_have_the_mass_of_their_classes(temperature):
    logits, _ = pair(5, 9)
    ids = logits.topk(4).indices.sort().values
    p = (logits / temperature).softmax(-1)
    kept = p.gather(-1, ids)
    wanted = torch.cat([kept, 1 - kept.sum(-1, keepdim=True)], -1)
    found = (coarse_logits(logits, ids, temperature=temperature) / temperature).softmax(-1)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-14)


@every_temperature
@every_divergence
def test_all_classes_are_the_whole_divergence(divergence, hyper, temperature):
    student, teacher = pair(6, 11)
    every = torch.arange(11).expand(6, 11)
    hyper = {**hyper, "temperature": temperature}
    whole = divergence(student, teacher, **hyper)
    assert torch.allclose(merged(divergence, student, teacher, every, **hyper), whole, rtol=1e-10, atol=1e-12)


@every_temperature
@every_divergence
def test_merging_never_raises_it_and_more_classes_never_lower_it(divergence, hyper, temperature):
    student, teacher = pair(50, 12)
    order = teacher.argsort(-1, descending=True)
    hyper = {**hyper, "temperature": temperature}
    values = [merged(divergence, student, teacher, order[:, :k].sort().values, **hyper) for k in range(1, 13)]
    whole = divergence(student, teacher, **hyper)
    for fewer, more in zip(values, [*values[1:], whole], strict=True):
        assert bool((fewer <= more + 1e-12).all())
    assert bool((values[0] < 0.95 * whole).any())  # something was merged


@every_divergence
def test_it_is_0_exactly_where_both_sides_are_one(divergence, hyper):
    student, _ = pair(6, 11)
    ids = student.topk(3).indices
    assert not merged(divergence, student, student.clone(), ids, **hyper).any()


def test_two_that_differ_only_within_the_rest_agree():
    teacher = torch.tensor([[2.0, 1.0, 0.5, 0.1]], dtype=torch.float64)
    student = teacher[:, [0, 1, 3, 2]]
    ids = torch.tensor([[0, 1]])
    assert float(merged(K.kl_divergence, student, teacher, ids)) == pytest.approx(0.0, abs=1e-15)
    assert float(K.kl_divergence(student, teacher)) > 0.01


@every_temperature
@every_divergence
def test_the_gradient_is_the_derivative(divergence, hyper, temperature):
    student, teacher = pair(3, 6)
    ids = teacher.topk(2).indices
    hyper = {**hyper, "temperature": temperature}
    assert torch.autograd.gradcheck(
        lambda s: merged(divergence, s, teacher, ids, **hyper), student.requires_grad_(), rtol=1e-4, atol=1e-5
    )


@every_temperature
def test_the_gradient_has_a_gradient(temperature):
    student, teacher = pair(3, 6)
    ids = teacher.topk(2).indices
    value = lambda s: merged(K.kl_divergence, s, teacher, ids, temperature=temperature)  # noqa: E731
    assert torch.autograd.gradgradcheck(value, student.requires_grad_(), rtol=1e-4, atol=1e-5)


def test_nothing_is_written_into():
    student, teacher = pair(3, 6)
    before = student.clone()
    coarse_logits(student, teacher.topk(2).indices)
    assert torch.equal(student, before)


@loop("dtype", [torch.float32, torch.float64])
@every_temperature
@every_divergence
def test_gradients_are_finite_where_the_rest_has_no_mass(divergence, hyper, temperature, dtype):
    hyper = {**hyper, "temperature": temperature}
    rows = torch.tensor([[1.0, 2.0, 0.0, -3.0], [1e30, -1e30, 0.0, 5.0], [0.0, 0.0, 0.0, 0.0]], dtype=dtype)
    masked = rows.clone()
    masked[:, 2:] = -torch.inf
    every = torch.arange(4).expand(3, 4)
    for student, teacher, ids in (
        (rows, rows.flip(1), every),  # no class is left
        (masked, masked[:, [1, 0, 2, 3]], every[:, :2]),  # those left are masked
        (masked, masked[:, [1, 0, 2, 3]], every),
    ):
        student = student.clone().requires_grad_()
        value = merged(divergence, student, teacher, ids, **hyper)
        gradient = torch.autograd.grad(value.sum(), student)[0]
        assert not value.isnan().any()
        assert gradient.isfinite().all()


def test_a_rest_that_the_student_alone_lacks_is_infinite():
    teacher = torch.zeros(1, 4)
    student = torch.tensor([[0.0, 0.0, -torch.inf, -torch.inf]], requires_grad=True)
    for temperature in (0.3, 1.0, 20.0):
        value = merged(K.kl_divergence, student, teacher, torch.tensor([[0, 1]]), temperature=temperature)
        assert value.item() == torch.inf
        assert torch.autograd.grad(value.sum(), student)[0].isfinite().all()


def test_half_precision_is_widened_also_under_autocast():
    logits = torch.randn(4, 9).bfloat16()
    ids = logits.topk(3).indices
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = coarse_logits(logits, ids)
    assert torch.equal(found, coarse_logits(logits.float(), ids))
    assert found.dtype == torch.float32


def test_a_temperature_that_is_none():
    with pytest.raises(LimbeckError, match="temperature is a finite number above 0"):
        coarse_logits(torch.zeros(1, 2), torch.zeros(1, 1, dtype=torch.int64), temperature=0.0)


# From samples.


@every_temperature
def test_every_class_at_its_probability_is_the_kl_divergence(temperature):
    student, teacher = pair(5, 8)
    student.requires_grad_()
    p = (teacher / temperature).softmax(-1)
    entropy = torch.special.entr(p).sum(-1)
    ids = torch.arange(8).expand(5, 8)
    value = sampled_kl_divergence(student, ids=ids, weights=p, entropy=entropy, temperature=temperature)
    whole = K.kl_divergence(student, teacher, temperature=temperature)
    assert torch.allclose(value, whole, rtol=1e-10)
    mine, its = (torch.autograd.grad(one.sum(), student)[0] for one in (value, whole))
    assert torch.allclose(mine, its, rtol=1e-10, atol=1e-12)


def test_a_draw_that_the_student_excludes_is_infinite_unless_it_has_no_weight():
    student = torch.tensor([[0.0, -torch.inf]], requires_grad=True)
    ids, entropy = torch.tensor([[0, 1]]), torch.zeros(1)
    for weight, wanted in ((0.5, torch.inf), (0.0, 0.0)):
        value = sampled_kl_divergence(student, ids=ids, weights=torch.tensor([[0.5, weight]]), entropy=entropy)
        assert value.item() == wanted
        assert torch.autograd.grad(value.sum(), student)[0].isfinite().all()


# The same in few passes.


@every_temperature
@every_divergence
@loop("k", [1, 4, 11])
def test_merged_values_are_those_of_merged_logits_with_both_derivatives(divergence, hyper, temperature, k):
    student, teacher = pair(6, 11)
    student[1] = teacher[1]
    ids = teacher.topk(k).indices
    buckets = coarse_logits(teacher, ids, temperature=temperature)
    compare = functools.partial(divergence, temperature=temperature, **hyper)
    found, wanted = [], []
    for values, results in ((merged_values, found), (None, wanted)):
        logits = student.clone().requires_grad_()
        if values is None:
            value = compare(coarse_logits(logits, ids, temperature=temperature), buckets)
        else:
            value = values(compare, logits, buckets, ids, temperature=temperature)
        (slope,) = torch.autograd.grad(value.sum(), logits, create_graph=True)
        results += [value, slope, torch.autograd.grad(slope.square().sum(), logits)[0]]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("logits", [[0.0, -200.0, -300.0, -250.0], [0.0, 1e20, 3.0, -1.0], [0.0, -INF, 1.0, -INF]])
def test_merged_values_of_extreme_students_are_finite_and_right(logits):
    """Probabilities that underflow to 0 in float32, huge logits, and impossible classes."""
    student, teacher = torch.tensor([logits], requires_grad=True), torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    teacher = teacher.masked_fill(student.isinf(), -INF)
    ids = torch.tensor([[0, 2]])
    buckets = coarse_logits(teacher, ids)
    value = merged_values(K.kl_divergence, student, buckets, ids)
    exact = K.kl_divergence(coarse_logits(student.double(), ids), buckets.double())
    torch.testing.assert_close(value.double(), exact, rtol=1e-6, atol=1e-6)
    ours, its = (torch.autograd.grad(one.sum(), student, retain_graph=True)[0] for one in (value, exact))
    torch.testing.assert_close(ours, its, rtol=1e-5, atol=1e-6)


def test_sampled_values_have_the_derivatives_of_their_formula():
    student, teacher = pair(5, 9)
    student.requires_grad_()
    ids, weights = torch.randint(9, (5, 4)), torch.rand(5, 4, dtype=torch.float64)
    entropy = torch.special.entr(teacher.softmax(-1)).sum(-1)
    for temperature in (0.7, 1.0, 3.0):
        value = sampled_kl_divergence(student, ids=ids, weights=weights, entropy=entropy, temperature=temperature)
        log_q = (student / temperature).log_softmax(-1).gather(-1, ids)
        exact = temperature**2 * (-(weights * log_q).sum(-1) - entropy)
        torch.testing.assert_close(value, exact)
        slopes = [torch.autograd.grad(one.sum(), student, create_graph=True)[0] for one in (value, exact)]
        torch.testing.assert_close(*slopes)
        torch.testing.assert_close(*(torch.autograd.grad(one.square().sum(), student)[0] for one in slopes))


# What a kernel declares.


def test_which_kernels_are_declared_divergences():
    declared = {name for name in K.__all__ if getattr(getattr(K, name), "divergence", False)}
    assert declared == {divergence.__name__ for divergence, _ in DIVERGENCES}
    assert {name for name in K.__all__ if getattr(getattr(K, name), "sampled", None)} == {"kl_divergence"}


def test_what_is_no_divergence_cannot_be_declared_one():
    def labeled(student, teacher, *, labels):
        return student[..., 0]

    with pytest.raises(
        LimbeckError, match=r"labeled\(labels, student, teacher\) per position is declared a divergence"
    ):
        kernel(per="position", divergence=True)(labeled)
    with pytest.raises(LimbeckError, match=r"per batch is declared a divergence"):
        kernel(per="batch", divergence=True)(lambda student, teacher: student)
