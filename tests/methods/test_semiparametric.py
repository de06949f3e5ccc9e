"""Semiparametric distillation corrects a teacher, and cross-fits it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from limbeck.batch import Batch
from limbeck.errors import LimbeckError
from limbeck.functional import kl_divergence, logit_squared_error
from limbeck.methods import make
from limbeck.methods.teachers.semiparametric import (
    CrossFitTeacher,
    FoldMasks,
    assign_folds,
    corrected_kl,
    corrected_squared_error,
)
from limbeck.teachers import TeacherContext
from methods.planted import Planted


def softmax(row, temperature=1.0):
    top = max(row)
    weights = [math.exp((value - top) / temperature) for value in row]
    return [weight / sum(weights) for weight in weights]


def errors(v, y, bound, floor=0.01):
    """The errors of the teacher, relative to its probabilities."""
    p = softmax(v)
    found = []
    for k, probability in enumerate(p):
        error = (k == y) - probability
        trusted = bound / (bound + error**2) if bound else 0.0
        found.append(trusted * error / max(probability, floor))
    return found


def brute_force_corrected_kl(student, teacher, *, labels, bound=1.0, temperature=1.0):
    """The same with loops over rows and classes."""
    values = []
    for z, v, y in zip(student.double().tolist(), teacher.double().tolist(), labels.tolist(), strict=True):
        q, w = softmax(z, temperature), softmax(v, temperature)
        floor = 0.0 if temperature == 1 else 0.01
        u = [e * b for e, b in zip(errors(v, y, bound, floor), w, strict=True)]
        divergence = sum(a * math.log(a / b) for a, b in zip(w, q, strict=True))
        term = sum((a - b * sum(u)) * math.log(c) for a, b, c in zip(u, w, q, strict=True))
        values.append(0.0 if y == -100 else temperature**2 * (divergence - term / temperature))
    return torch.tensor(values, dtype=torch.float64)


def brute_force_corrected_squared_error(student, teacher, *, labels, bound=1.0):
    """The same with loops over rows and classes."""
    values = []
    for z, v, y in zip(student.double().tolist(), teacher.double().tolist(), labels.tolist(), strict=True):
        off = [a - b - e for a, b, e in zip(z, v, errors(v, y, bound), strict=True)]
        mean = sum(off) / len(off)
        values.append(0.0 if y == -100 else sum((value - mean) ** 2 for value in off) / (2 * len(off)))
    return torch.tensor(values, dtype=torch.float64)


def sample(rows=6, classes=5):
    draw = torch.Generator().manual_seed(0)
    z, v = (torch.randn(rows, classes, generator=draw, dtype=torch.float64) for _ in range(2))
    return z, v, torch.randint(classes, (rows,), generator=draw)


@pytest.mark.parametrize("bound", [0.0, 0.3, 100.0])
def test_they_are_the_formulas(bound):
    z, v, y = sample()
    for temperature in (1.0, 3.0):
        arguments = {"labels": y, "bound": bound, "temperature": temperature}
        torch.testing.assert_close(corrected_kl(z, v, **arguments), brute_force_corrected_kl(z, v, **arguments))
    found = corrected_squared_error(z, v, labels=y, bound=bound)
    torch.testing.assert_close(found, brute_force_corrected_squared_error(z, v, labels=y, bound=bound))


def test_without_a_bound_they_are_the_plain_losses():
    z, v, y = sample()
    torch.testing.assert_close(
        corrected_kl(z, v, labels=y, bound=0.0, temperature=2.0), kl_divergence(z, v, temperature=2.0)
    )
    torch.testing.assert_close(corrected_squared_error(z, v, labels=y, bound=0.0), logit_squared_error(z, v))


def test_with_full_trust_at_temperature_1_the_gradient_is_that_of_the_label():
    z, v, y = sample()
    z = z.requires_grad_()
    (slope,) = torch.autograd.grad(corrected_kl(z, v, labels=y, bound=1e9).sum(), z)
    (expected,) = torch.autograd.grad(F.cross_entropy(z, y, reduction="sum"), z)
    torch.testing.assert_close(slope, expected, rtol=1e-5, atol=1e-6)


def test_the_correction_is_the_derivative_of_the_loss_along_the_error():
    """The first-order term of the cross-entropy at T = 1 in the direction y - p."""
    z, v, y = sample()
    p, log_q = v.softmax(-1), z.log_softmax(-1)
    along = -((F.one_hot(y, 5) - p) * log_q).sum(-1)
    term = corrected_kl(z, v, labels=y, bound=1e9) - kl_divergence(z, v)
    torch.testing.assert_close(term, along, rtol=1e-5, atol=1e-6)
    mean = sum(
        p[:, k] * (corrected_kl(z, v, labels=torch.full((6,), k), bound=1e9) - kl_divergence(z, v)) for k in range(5)
    )
    torch.testing.assert_close(mean, torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-6)


def test_each_example_is_in_one_fold_and_its_teacher_never_saw_it():
    batch = Batch(torch.zeros(500, 1), id=torch.randperm(10_000)[:500])
    own, masks = assign_folds(batch, 5), FoldMasks(5).compute(batch)
    assert own.bincount(minlength=5).min() > 60
    for number in range(5):
        assert torch.equal(masks[f"fold-{number}"], own != number)
    assert torch.equal(own[3:9], assign_folds(batch.rows(torch.arange(3, 9)), 5))
    constant = [nn.Linear(1, 2) for _ in range(5)]
    for number, net in enumerate(constant):
        nn.init.zeros_(net.weight)
        nn.init.constant_(net.bias, number)
    with torch.no_grad(), CrossFitTeacher(*constant).open(TeacherContext()) as session:
        assert torch.equal(session(batch)["logits"][:, 0].long(), own)


def test_without_ids_it_says_what_to_do():
    with pytest.raises(LimbeckError, match="folds=1"):
        assign_folds(Batch(torch.zeros(3)), 2)


@pytest.mark.parametrize(
    ("wrong", "value"), [("folds", 0), ("bound", -1.0), ("temperature", 0.0), ("weight", 2.0), ("loss", "kl")]
)
def test_a_value_out_of_range_is_refused(wrong, value):
    with pytest.raises(LimbeckError, match=wrong):
        make("semiparametric", teacher=nn.Linear(4, 3), **{wrong: value})


def test_one_fold_takes_the_teacher_as_it_is():
    (stage,) = make("semiparametric", teacher=nn.Linear(4, 3), folds=1, loss="squared_error").stages()
    assert repr(stage.objective) == "0.5 * Loss(corrected_squared_error, bound=1.0) + 0.5 * Loss(cross_entropy)"


def test_cross_fitted_teachers_are_less_sure_and_teach_more():
    planted = Planted()
    settings = {"bound": 0.0, "weight": 1.0, "temperature": 1.0}
    alone = planted.learn(make("supervised"), epochs=40, seed=7).student
    once = planted.learn(make("semiparametric", teacher=alone, folds=1, **settings), epochs=40).student
    run = planted.learn(make("semiparametric", teacher=planted.truth, folds=3, **settings), epochs=40)
    batch = Batch(planted.x, id=torch.arange(len(planted.x)))
    folds = [run.models[f"fold-{number}"].eval() for number in range(3)]
    with torch.no_grad(), CrossFitTeacher(*folds).open(TeacherContext()) as session:
        unseen = session(batch)["logits"].softmax(-1).gather(1, planted.labels[:, None]).mean()
        seen = alone.eval()(planted.x).softmax(-1).gather(1, planted.labels[:, None]).mean()
    assert unseen < seen - 0.1
    assert planted.nll(run.student) < planted.nll(once) - 0.01


@pytest.mark.parametrize("loss", [corrected_kl, corrected_squared_error])
def test_a_teacher_with_one_output_is_not_broadcast(loss):
    with pytest.raises(LimbeckError, match="same classes"):
        loss(torch.zeros(2, 3), torch.zeros(2, 1), labels=torch.zeros(2, dtype=torch.int64))
