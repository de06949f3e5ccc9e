"""A student of regression matches the mean and variance of an ensemble."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from limbeck.batch import Batch
from limbeck.data import ArrayDataset
from limbeck.engine import distill
from limbeck.errors import LimbeckError
from limbeck.methods import make
from limbeck.methods.logits.gaussian_kl import MomentTeacher, gaussian_kl_divergence
from limbeck.models import build
from limbeck.recipe import Optimizer
from limbeck.teachers import Ensemble, TeacherContext


def brute_force_gaussian_kl_divergence(student, teacher):
    """The same with loops over rows and outputs."""
    values = []
    for own, its in zip(student.double().tolist(), teacher.double().tolist(), strict=True):
        total, half = 0.0, len(own) // 2
        for m, log_s, n, log_t in zip(own[:half], own[half:], its[:half], its[half:], strict=True):
            s, t = (math.exp(min(max(value, -30.0), 30.0)) for value in (log_s, log_t))
            total += 0.5 * (math.log(s / t) + (t + (m - n) ** 2) / s - 1)
        values.append(total)
    return torch.tensor(values, dtype=torch.float64)


def moments(rows=5, outputs=3):
    draw = torch.Generator().manual_seed(0)
    return tuple(torch.randn(rows, 2 * outputs, generator=draw, dtype=torch.float64) for _ in range(2))


def test_it_is_the_divergence_of_torch_distributions():
    student, teacher = moments()
    (m, log_s), (n, log_t) = student.chunk(2, 1), teacher.chunk(2, 1)
    expected = kl_divergence(Normal(n, (log_t / 2).exp()), Normal(m, (log_s / 2).exp())).sum(1)
    torch.testing.assert_close(gaussian_kl_divergence(student, teacher), expected)
    torch.testing.assert_close(brute_force_gaussian_kl_divergence(student, teacher), expected)


def test_with_a_constant_variance_it_is_the_squared_error():
    student, teacher = moments()
    student[:, 3:] = teacher[:, 3:] = math.log(4.0)
    expected = (student - teacher)[:, :3].square().sum(1) / 8
    torch.testing.assert_close(gaussian_kl_divergence(student, teacher), expected)


def test_near_equality_it_is_not_negative_in_float32():
    student = torch.zeros(1000, 2)
    student[:, 1] = torch.linspace(-1e-3, 1e-3, 1000)
    value = gaussian_kl_divergence(student, torch.zeros(1000, 2))
    assert (value >= 0).all()
    torch.testing.assert_close(value, student[:, 1].square() / 4, atol=1e-9, rtol=2e-3)


def test_an_odd_number_of_columns_is_refused():
    with pytest.raises(LimbeckError, match="log-variances"):
        gaussian_kl_divergence(torch.zeros(2, 3), torch.zeros(2, 3))


def test_the_teacher_has_the_moments_of_its_members():
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    members = [nn.Linear(2, 2) for _ in range(3)]
    teacher = MomentTeacher(Ensemble(*members, weights=[1.0, 1.0, 2.0]), smallest_variance=0.01)
    with torch.no_grad(), teacher.open(TeacherContext(requires=frozenset({"moments"}))) as session:
        found = session(Batch(x))["moments"]
        outputs = torch.stack([members[0](x), members[1](x), members[2](x), members[2](x)])
    torch.testing.assert_close(found[:, :2], outputs.mean(0))
    torch.testing.assert_close(found[:, 2:].exp(), outputs.var(0, unbiased=False) + 0.01)


def test_one_teacher_is_refused_and_so_is_no_variance():
    for teacher in (nn.Linear(4, 1), Ensemble(nn.Linear(4, 1))):
        with pytest.raises(LimbeckError, match="hinton"):
            distill(nn.Linear(4, 1), make("gaussian_kl", teacher=teacher), torch.zeros(4, 4), epochs=1).finish()
    pair = Ensemble(nn.Linear(4, 1), nn.Linear(4, 1))
    for wrong in (0.0, -1.0):
        with pytest.raises(LimbeckError, match="smallest_variance"):
            make("gaussian_kl", teacher=pair, smallest_variance=wrong)


def test_the_student_s_variance_is_that_of_the_ensemble():
    """The members disagree by 2 |x|: the student learns means of 0 and variances of x squared."""
    pair = Ensemble(Slope(1.0), Slope(-1.0))
    x = torch.linspace(-2, 2, 200).unsqueeze(1)
    student = build("mlp", inputs=1, classes=1, hidden=[32, 32], seed=0)
    recipe = make("gaussian_kl", teacher=pair, smallest_variance=0.01)
    run = distill(student, recipe, ArrayDataset(x), batch_size=50, epochs=150, seed=0, log_every=10**6,
                  optimizer=Optimizer("adam", lr=1e-2)).finish()  # fmt: skip
    moments = []
    run.student.classifier.moments.register_forward_hook(lambda *call: moments.append(call[2]))
    with torch.no_grad():
        assert run.student.eval()(x).abs().max() < 0.3
    far = x.abs()[:, 0] > 1
    torch.testing.assert_close(moments[0][far, 1].exp(), x[far, 0].square() + 0.01, rtol=0.3, atol=0.2)
    assert moments[0][95:105, 1].exp().max() < 0.3


class Slope(nn.Module):
    """A linear function of one number."""

    def __init__(self, slope):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, x):
        return self.slope * x
