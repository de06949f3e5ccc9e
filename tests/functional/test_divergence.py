"""KL, reverse KL and total variation against their definitions and limits."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck import functional
from limbeck.errors import LimbeckError
from limbeck.functional import kl_divergence, logit_squared_error, reverse_kl, total_variation

INF = float("inf")


def drawn(*shape: int, scale: float = 3.0, dtype=torch.float64):
    return scale * torch.randn(*shape, dtype=dtype), scale * torch.randn(*shape, dtype=dtype)


def probabilities(row, temperature):
    top = max(row)
    exps = [math.exp((value - top) / temperature) for value in row]
    return [value / sum(exps) for value in exps]


def by_definition(student, teacher, temperature, of):
    """Row by row in Python floats, in probability space."""
    rows = zip(student.tolist(), teacher.tolist(), strict=True)
    return torch.tensor(
        [temperature**2 * of(probabilities(t, temperature), probabilities(s, temperature)) for s, t in rows],
        dtype=torch.float64,
    )


DEFINITIONS = [
    (kl_divergence, lambda p, q: sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))),
    (reverse_kl, lambda p, q: sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))),
    (total_variation, lambda p, q: sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2),
]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize(("kernel", "of"), DEFINITIONS, ids=lambda v: getattr(v, "__name__", ""))
def test_it_is_its_definition(kernel, of, temperature):
    student, teacher = drawn(6, 7)
    value = kernel(student, teacher, temperature=temperature)
    torch.testing.assert_close(value, by_definition(student, teacher, temperature, of), rtol=1e-10, atol=1e-12)


def test_a_number_by_hand():
    # p = (3/4, 1/4), q = (1/2, 1/2): KL = log 2 - H(p).
    student, teacher = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[3.0, 1.0]], dtype=torch.float64).log()
    assert kl_divergence(student, teacher).item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert total_variation(student, teacher).item() == pytest.approx(0.25)


def test_it_agrees_with_pytorch():
    student, teacher = drawn(32, 10)
    theirs = F.kl_div((student / 4).log_softmax(-1), (teacher / 4).log_softmax(-1), log_target=True, reduction="none")
    torch.testing.assert_close(kl_divergence(student, teacher, temperature=4.0), 16 * theirs.sum(-1))


def test_log_probabilities_are_as_good_as_logits():
    student, teacher = drawn(4, 5)
    whole = kl_divergence(student, teacher)
    torch.testing.assert_close(kl_divergence(student.log_softmax(-1), teacher.log_softmax(-1)), whole)


@pytest.mark.parametrize("temperature", [0.05, 1.0, 4.0])
def test_the_gradient_is_temperature_times_the_difference_of_probabilities(temperature):
    student, teacher = drawn(6, 7)
    student.requires_grad_()
    (slope,) = torch.autograd.grad(kl_divergence(student, teacher, temperature=temperature).sum(), student)
    wanted = temperature * ((student / temperature).softmax(-1) - (teacher / temperature).softmax(-1))
    torch.testing.assert_close(slope, wanted.detach())


def test_at_high_temperature_the_gradient_is_that_of_matching_logits_and_the_error_falls_as_one_over_t():
    student, teacher = (logits - logits.mean(-1, keepdim=True) for logits in drawn(16, 10))
    student.requires_grad_()
    wanted = (student - teacher).detach() / 10
    errors = []
    for temperature in (100.0, 1000.0, 10000.0):
        (slope,) = torch.autograd.grad(kl_divergence(student, teacher, temperature=temperature).sum(), student)
        errors.append(((slope - wanted).norm() / wanted.norm()).item())
    assert errors[0] < 0.1
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.1)


def test_at_high_temperature_the_value_is_the_logit_squared_error_also_where_columns_are_masked():
    student, teacher = drawn(16, 10)
    student[:, 7:] = teacher[:, 7:] = -INF
    limit = logit_squared_error(student, teacher)
    for temperature in (1e3, 1e4):
        value = kl_divergence(student, teacher, temperature=temperature)
        torch.testing.assert_close(value, limit, rtol=20 / temperature, atol=0)


def test_total_variation_grows_with_temperature_as_it_says():
    student, teacher = drawn(16, 10)
    hot, hotter = (total_variation(student, teacher, temperature=t) for t in (1e3, 1e4))
    torch.testing.assert_close(hotter / hot, torch.full_like(hot, 10.0), rtol=0.02, atol=0)


def test_a_constant_added_to_a_row_changes_nothing():
    student, teacher = drawn(4, 5)
    torch.testing.assert_close(kl_divergence(student + 7, teacher - 3), kl_divergence(student, teacher))


def test_reverse_exchanges_the_arguments_and_kl_is_not_symmetric():
    student, teacher = drawn(4, 5)
    assert torch.equal(reverse_kl(student, teacher), kl_divergence(teacher, student))
    assert not torch.allclose(reverse_kl(student, teacher), kl_divergence(student, teacher))
    assert torch.allclose(total_variation(student, teacher), total_variation(teacher, student))


def test_pinsker():
    student, teacher = drawn(200, 5)
    assert (total_variation(student, teacher) <= (kl_divergence(student, teacher) / 2).sqrt()).all()


def test_masked_in_the_student_alone_is_infinite_where_the_teacher_has_mass():
    student, teacher = drawn(3, 4, dtype=torch.float32)
    student[0, 1] = -INF
    teacher[1, 1] = -INF
    teacher[0, 1] = -80.0  # however little
    forward, reverse = kl_divergence(student, teacher), reverse_kl(student, teacher)
    assert forward.isinf().tolist() == [True, False, False]
    assert reverse.isinf().tolist() == [False, True, False]
    assert total_variation(student, teacher).isfinite().all()


def test_masked_in_the_student_alone_is_finite_where_the_teacher_has_none():
    student, teacher = torch.tensor([[0.0, -INF, 0.0]]), torch.tensor([[0.0, -1e30, 0.0]])
    assert kl_divergence(student, teacher).tolist() == [0.0]


@pytest.mark.parametrize("kernel", [kl_divergence, reverse_kl, total_variation])
def test_a_row_of_nothing_is_0_in_both_and_infinite_in_one(kernel):
    student, teacher = drawn(3, 4)
    student[:2] = -INF
    teacher[1:] = -INF
    student[2] = 1.0
    student.requires_grad_()
    value = kernel(student, teacher)
    assert value.tolist() == [INF, 0.0, INF]
    value[1].backward()
    assert (student.grad[1] == 0).all()


@pytest.mark.parametrize("kernel", [kl_divergence, reverse_kl, total_variation])
@pytest.mark.parametrize("side", [0, 1])
def test_nan_is_never_hidden(kernel, side):
    pair = list(drawn(2, 4))
    pair[side][0, 2] = float("nan")
    assert kernel(*pair).isnan().tolist() == [True, False]


def test_float32_near_equality_is_good_to_rounding():
    student, teacher = drawn(64, 100, dtype=torch.float32)
    close = student + 1e-3 * teacher
    exact = kl_divergence(close.double(), student.double())
    torch.testing.assert_close(kl_divergence(close, student).double(), exact, rtol=0, atol=1e-6)


LOGIT = st.one_of(st.floats(-50, 50), st.sampled_from([-1e30, 1e30, -INF, 0.0]))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data(), st.integers(2, 6), st.sampled_from([0.05, 1.0, 7.0]))
def test_never_negative_and_never_nan(data, classes, temperature):
    row = st.lists(LOGIT, min_size=classes, max_size=classes)
    student, teacher = torch.tensor([data.draw(row)]), torch.tensor([data.draw(row)])
    student.requires_grad_()
    for kernel in (kl_divergence, reverse_kl, total_variation):
        value = kernel(student, teacher, temperature=temperature)
        assert value.item() >= -1e-5 * temperature**2, kernel.__name__
        if kernel is not reverse_kl:
            (slope,) = torch.autograd.grad(value.sum(), student)
            assert slope.isfinite().all(), kernel.__name__


@pytest.mark.parametrize("temperature", [0.05, 1.0, 4.0])
def test_probabilities_are_a_softmax(temperature):
    z = 3 * torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(functional.probabilities(z, temperature=temperature), (z / temperature).softmax(-1))
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda t: functional.probabilities(t, temperature=temperature), z)


def test_probabilities_are_finite_where_a_softmax_is_not():
    masked = torch.tensor([[1.0, 2.0, -torch.inf], [-torch.inf] * 3, [1e38, -1e38, 0.0]], requires_grad=True)
    for temperature in (1e-3, 1.0):
        p = functional.probabilities(masked, temperature=temperature)
        (slope,) = torch.autograd.grad(p.square().sum(), masked)
        assert p.isfinite().all()
        assert slope.isfinite().all()
        assert p[0, 2] == 0
        assert (p[1] == 0).all()
        torch.testing.assert_close(p.sum(-1), torch.tensor([1.0, 0.0, 1.0]))
    with pytest.raises(LimbeckError, match="temperature"):
        functional.probabilities(masked, temperature=0.0)
