"""The alpha-beta divergence: its formula, its limits, and where it may be computed from merged classes."""

from __future__ import annotations

import itertools

import pytest
import torch

from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional import alpha_beta_divergence, coarse_logits, kl_divergence, reverse_kl
from limbeck.losses import Loss
from limbeck.top_k_logits import TopKLogits

EXPONENTS = [(0.2, 0.7), (0.5, 0.5), (1.0, 0.1), (0.1, 0.1), (0.8, 0.3), (1.5, 1.5), (1e-3, 0.9), (0.9, 1e-3)]
INF = float("inf")


@pytest.fixture
def rows():
    torch.manual_seed(0)
    return torch.randn(6, 40, dtype=torch.float64) * 3, torch.randn(6, 40, dtype=torch.float64) * 3


def formula(student, teacher, a, b, temperature=1.0):
    p, q, s = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1), a + b
    return -(temperature**2) / (a * b) * (p**a * q**b - a / s * p**s - b / s * q**s).sum(-1)


@pytest.mark.parametrize(("a", "b"), EXPONENTS)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_it_is_the_formula_of_the_paper_with_its_gradients(rows, a, b, temperature):
    student, teacher = (side.clone().requires_grad_() for side in rows)
    ours = alpha_beta_divergence(student, teacher, alpha=a, beta=b, temperature=temperature)
    exact = formula(student, teacher, a, b, temperature)
    torch.testing.assert_close(ours, exact, rtol=1e-11, atol=0)
    slopes = (torch.autograd.grad(value.sum(), (student, teacher)) for value in (ours, exact))
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    narrow = alpha_beta_divergence(rows[0].float(), rows[1].float(), alpha=a, beta=b, temperature=temperature)
    torch.testing.assert_close(narrow.double(), exact.detach(), rtol=2e-6, atol=0)


def test_forward_and_reverse_kl_are_its_ends_and_it_is_continuous_there(rows):
    """Trap 1: an end that is special-cased must be the limit, also in the gradient."""
    for ends, kernel in (((1.0, 0.0), kl_divergence), ((0.0, 1.0), reverse_kl)):
        student = rows[0].clone().requires_grad_()
        exact = kernel(student, rows[1])
        (slope,) = torch.autograd.grad(exact.sum(), student)
        for step, tolerance in ((0.0, 0.0), (1e-12, 1e-9), (1e-6, 1e-4)):
            a, b = (abs(end - step) for end in ends)
            value = alpha_beta_divergence(student, rows[1], alpha=a, beta=b)
            torch.testing.assert_close(value, exact, rtol=tolerance, atol=0)
            torch.testing.assert_close(torch.autograd.grad(value.sum(), student)[0], slope, rtol=0, atol=tolerance)
            narrow = alpha_beta_divergence(rows[0].float(), rows[1].float(), alpha=a, beta=b)
            torch.testing.assert_close(narrow.double(), exact.detach(), rtol=tolerance + 2e-6, atol=0)


def test_at_a_half_each_it_is_four_times_the_squared_hellinger_distance(rows):
    p, q = (side.softmax(-1).sqrt() for side in rows)
    value = alpha_beta_divergence(*rows, alpha=0.5, beta=0.5)
    torch.testing.assert_close(value, 2 * (p - q).square().sum(-1), rtol=1e-12, atol=0)


def test_exchanged_arguments_are_exchanged_exponents(rows):
    one = alpha_beta_divergence(*rows, alpha=0.3, beta=0.6)
    torch.testing.assert_close(one, alpha_beta_divergence(*rows[::-1], alpha=0.6, beta=0.3), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("a", "b"), EXPONENTS)
def test_near_equality_it_is_positive_and_half_the_weighted_square(rows, a, b):
    student = rows[0]
    teacher = student + 1e-3 * rows[1]
    p, q = teacher.softmax(-1), student.softmax(-1)
    limit = 0.5 * (p ** (a + b) * (p / q).log().square()).sum(-1)
    value = alpha_beta_divergence(student, teacher, alpha=a, beta=b)
    torch.testing.assert_close(value, limit, rtol=2e-2, atol=0)
    narrow = alpha_beta_divergence(student.float(), teacher.float(), alpha=a, beta=b)
    torch.testing.assert_close(narrow.double(), value, rtol=5e-3, atol=0)


@pytest.mark.parametrize(("a", "b"), EXPONENTS)
def test_trap_5_a_class_that_is_impossible_on_one_side_leaves_it_finite(rows, a, b):
    student, teacher = (side.clone() for side in rows)
    student[:, 0], teacher[:, 1] = -INF, -INF
    student[:, 2] = teacher[:, 2] = -INF
    student.requires_grad_()
    value = alpha_beta_divergence(student, teacher, alpha=a, beta=b)
    torch.testing.assert_close(value, formula(student, teacher, a, b), rtol=1e-11, atol=0)
    (slope,) = torch.autograd.grad(value.sum(), student)
    assert slope.isfinite().all()
    assert slope[:, [0, 2]].abs().max() == 0


def test_without_one_exponent_an_impossible_class_makes_it_infinite(rows):
    student, teacher = (side.clone() for side in rows)
    student[:, 0] = -INF
    assert alpha_beta_divergence(student, teacher, alpha=0.9, beta=0.0).isinf().all()
    assert alpha_beta_divergence(teacher, student, alpha=0.0, beta=0.9).isinf().all()
    assert alpha_beta_divergence(teacher, student, alpha=0.9, beta=0.0).isfinite().all()
    student[:, 0] = teacher[:, 0] = -INF
    assert alpha_beta_divergence(student, teacher, alpha=0.9, beta=0.0).isfinite().all()


def test_merging_classes_never_increases_it_for_a_sum_of_at_most_one():
    torch.manual_seed(1)
    grid = [0.0, 0.05, 0.2, 0.5, 0.7, 0.95, 1.0]
    for a, b in itertools.product(grid, grid):
        if not 0 < a + b <= 1:
            continue
        student, teacher = (4 * torch.randn(200, 6, dtype=torch.float64) for _ in range(2))
        ids = torch.randint(6, (200, 1))
        merged = (coarse_logits(side, ids) for side in (student, teacher))
        whole, part = (alpha_beta_divergence(*pair, alpha=a, beta=b) for pair in ((student, teacher), tuple(merged)))
        assert (part <= whole * (1 + 1e-12) + 1e-15).all(), (a, b)


def make_partial(teacher):
    ids = teacher.topk(4, -1).indices
    coarse = coarse_logits(teacher, ids)
    rest = torch.stack([coarse[:, -1:], torch.zeros_like(coarse[:, -1:])], 1)
    return TopKLogits(ids, coarse[:, :-1], torch.zeros(len(teacher)), rest, classes=teacher.shape[1], grid=(1.0,))


def test_top_k_logits_are_refused_where_merging_could_increase_it(rows):
    student, teacher = (side.float() for side in rows)
    partial = make_partial(teacher)
    fine = partial.compare(alpha_beta_divergence, student, alpha=0.2, beta=0.7)
    assert (fine <= alpha_beta_divergence(student, teacher)).all()
    with pytest.raises(LimbeckError, match="alpha \\+ beta of at most 1"):
        partial.compare(alpha_beta_divergence, student, alpha=0.8, beta=0.3)
    assert partial.invalid_reason(Loss(alpha_beta_divergence).kernel.function) is None


@pytest.mark.parametrize("wrong", [{"alpha": -0.1}, {"beta": 2.5}, {"alpha": 0.0, "beta": 0.0}, {"beta": float("nan")}])
def test_exponents_out_of_range_are_refused(rows, wrong):
    with pytest.raises(ArgumentError):
        alpha_beta_divergence(*rows, **wrong)
