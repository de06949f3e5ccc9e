"""Continuation-KD moves from scaled logits with a margin to the labels."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs, Progress
from limbeck.errors import LimbeckError
from limbeck.functional import logit_squared_error
from limbeck.losses import weighted_loss
from limbeck.methods import make
from limbeck.methods.logits.continuation_kd import annealed_scale, continuation_kd, scaled_logit_hinge
from methods.planted import Planted


def brute_force_scaled_logit_hinge(student, teacher, *, scale=1.0, margin=0.0):
    """The same with loops over rows and classes."""
    classes = student.shape[-1]
    rows = zip(*(side.double().reshape(-1, classes).tolist() for side in (student, teacher)), strict=True)
    values = [
        max(0.0, sum((a - scale * b) ** 2 for a, b in zip(z, v, strict=True) if max(a, b) > -math.inf) - margin * scale)
        for z, v in rows
    ]
    return torch.tensor(values, dtype=torch.float64).view(student.shape[:-1])


def pair(*shape):
    draw = torch.Generator().manual_seed(0)
    return tuple(torch.randn(*shape, generator=draw, dtype=torch.float64) for _ in range(2))


@pytest.mark.parametrize(("scale", "margin"), [(1.0, 0.0), (0.3, 0.0), (0.3, 5.0), (1.0, 2.0)])
def test_it_is_the_formula(scale, margin):
    z, v = pair(5, 2, 7)
    expected = brute_force_scaled_logit_hinge(z, v, scale=scale, margin=margin)
    torch.testing.assert_close(scaled_logit_hinge(z, v, scale=scale, margin=margin), expected)


def test_without_scale_and_margin_it_is_logit_matching():
    z, v = pair(5, 7)
    torch.testing.assert_close(scaled_logit_hinge(z, v), 14 * logit_squared_error(z, v, centered=False))


def test_within_the_margin_value_and_gradient_are_0():
    _, v = pair(5, 7)
    z = (0.5 * v + 0.1).requires_grad_()
    value = scaled_logit_hinge(z, v, scale=0.5, margin=1.0)
    assert (value == 0).all()
    assert (torch.autograd.grad(value.sum(), z)[0] == 0).all()


def test_the_hinge_is_of_each_example_and_not_of_their_mean():
    z, v = torch.tensor([[0.0], [2.0]]), torch.zeros(2, 1)
    assert scaled_logit_hinge(z, v, margin=3.0).tolist() == [0.0, 1.0]


def test_the_scale_rises_in_equal_steps():
    values = [annealed_scale(20)(Progress(epoch, 201)) for epoch in range(200)]
    assert values == [(1 + epoch // 10) / 20 for epoch in range(200)]


@pytest.mark.parametrize(("step", "psi", "phi"), [(0, 0.0, 0.25), (3, 0.4, 0.5), (6, 0.8, 0.75), (10, 1.0, 1.0)])
def test_the_objective_is_that_of_the_paper(step, psi, phi):
    recipe = make("continuation_kd", teacher=nn.Identity(), max_temperature=4, margin=1.5)
    stage, (z, v), y = next(recipe.stages()), pair(6, 4), torch.arange(6) % 4
    batch = Batch(z, labels=y)
    terms = stage.objective(Outputs(logits=z), Outputs(logits=v), batch, Progress(step, 11))
    hard = -z.log_softmax(-1)[torch.arange(6), y].mean()
    soft = brute_force_scaled_logit_hinge(z, v, scale=phi, margin=1.5).mean()
    torch.testing.assert_close(weighted_loss(terms, stage.objective.counts(batch)), psi * hard + (1 - psi) * soft)


@pytest.mark.parametrize(
    ("wrong", "value"), [("max_temperature", 0), ("margin", -1.0), ("labels_until", 0.0), ("labels_until", 1.5)]
)
def test_a_value_out_of_range_is_refused(wrong, value):
    with pytest.raises(LimbeckError, match="until" if wrong == "labels_until" else wrong):
        make("continuation_kd", teacher=nn.Linear(4, 3), **{wrong: value})


@pytest.mark.parametrize("wrong", [{"scale": 0.0}, {"scale": -1.0}, {"margin": -1.0}])
def test_the_kernel_refuses_them_too(wrong):
    with pytest.raises(LimbeckError):
        scaled_logit_hinge(*pair(2, 3), **wrong)


def test_it_starts_near_the_teacher_s_small_logits():
    planted = Planted()
    start = make("continuation_kd", teacher=planted.truth, max_temperature=4, margin=0.0, labels_until=1.0)
    (stage,) = start.stages()
    student = planted.student()
    with torch.no_grad():
        z, v = student(planted.x), planted.truth(planted.x)
    batch = Batch(planted.x, labels=planted.labels)
    terms = stage.objective(Outputs(logits=z), Outputs(logits=v), batch, Progress(0, 100))
    assert terms["cross_entropy"].weight == 0
    torch.testing.assert_close(terms["scaled_logit_hinge"].mean, (z - 0.25 * v).square().sum(-1).mean())


def test_it_passes_the_student_alone():
    planted = Planted()
    alone = planted.nll(planted.alone(epochs=30))
    assert planted.nll(planted.learn(make("continuation_kd", teacher=planted.truth), epochs=30).student) < alone - 0.05


def test_a_teacher_with_one_output_is_not_broadcast():
    with pytest.raises(LimbeckError, match="same classes"):
        scaled_logit_hinge(torch.zeros(2, 3), torch.zeros(2, 1))


@pytest.mark.parametrize("wrong", ["half", None, 0.0, 1.5])
def test_an_end_that_is_no_fraction_is_refused_by_its_name(wrong):
    with pytest.raises(LimbeckError, match="labels_until"):
        inspect.unwrap(continuation_kd)(torch.nn.Linear(2, 3), labels_until=wrong)
