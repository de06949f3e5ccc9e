"""TTM: the teacher's power transform is its softmax at a temperature, and WTTM weights it by the power sum."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.errors import LimbeckError
from limbeck.functional import kl_divergence
from limbeck.methods import make
from limbeck.methods.logits.ttm import transformed_teacher_kl
from methods.row_math import like, log_softmax, softmax, to_rows

DRAW = torch.Generator().manual_seed(0)
Z, V = (3 * torch.randn(6, 5, generator=DRAW, dtype=torch.float64) for _ in range(2))


def brute_force_transformed_teacher_kl(student, teacher, *, exponent=1.0, weighted=False):
    values = []
    for z, v in zip(to_rows(student), to_rows(teacher), strict=True):
        powers = [p**exponent if p > 0 else 0.0 for p in softmax(v)]
        total = sum(powers)
        log_q = log_softmax(z)
        pairs = [(p / total, q) for p, q in zip(powers, log_q, strict=True) if p > 0]
        value = sum(p * (math.log(p) - q) for p, q in pairs)
        values.append(total * value if weighted else value)
    return like(student, values)


@pytest.mark.parametrize("hyper", [{"exponent": 0.1}, {"exponent": 0.2, "weighted": True}, {"exponent": 2.0}])
def test_the_kernel_is_the_formula(hyper):
    torch.testing.assert_close(transformed_teacher_kl(Z, V, **hyper), brute_force_transformed_teacher_kl(Z, V, **hyper))


def test_the_transform_is_a_temperature_of_the_teacher_alone():
    torch.testing.assert_close(transformed_teacher_kl(Z, V, exponent=0.25), kl_divergence(Z, V / 4))
    assert torch.equal(transformed_teacher_kl(Z, V), kl_divergence(Z, V))


@pytest.mark.parametrize(("teacher", "power_sum"), [([0.0] * 4, 4**0.8), ([200.0, 0.0, 0.0, 0.0], 1.0)])
def test_the_power_sum_is_larger_for_smooth_labels(teacher, power_sum):
    z, v = Z[:1, :4], torch.tensor([teacher], dtype=torch.float64)
    plain, weighted = (transformed_teacher_kl(z, v, exponent=0.2, weighted=one) for one in (False, True))
    assert (weighted / plain).item() == pytest.approx(power_sum, rel=1e-9)


def test_an_exponent_of_0_is_refused():
    with pytest.raises(LimbeckError, match="exponent=0"):
        make("ttm", teacher=torch.nn.Linear(2, 3), exponent=0.0)
