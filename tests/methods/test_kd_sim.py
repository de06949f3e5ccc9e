"""KD-sim softens labels by the similarity of the teacher's classes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from limbeck import PrecomputedTeacher
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy, label_smoothing
from limbeck.methods import make
from limbeck.methods.logits.kd_sim import ClassDirections, class_similarity_kl
from limbeck.testing import check_kernel
from methods.planted import Planted


def brute_force_class_similarity_kl(student, *, labels, directions, similarity_temperature=0.2, temperature=1.0):
    """The same with loops over rows and classes."""
    w, values = directions.rows.double().tolist(), []
    for z, y in zip(student.double().tolist(), labels.tolist(), strict=True):
        if y == -100:
            values.append(0.0)
            continue
        cosines = [sum(a * b for a, b in zip(w[y], row, strict=True)) for row in w]
        target, q = softmax(cosines, similarity_temperature), softmax(z, temperature)
        values.append(sum(t * math.log(t / s) for t, s in zip(target, q, strict=True)))
    return torch.tensor(values, dtype=torch.float64)


def softmax(row, temperature):
    weights = [math.exp((value - max(row)) / temperature) for value in row]
    return [weight / sum(weights) for weight in weights]


def sample():
    draw = torch.Generator().manual_seed(0)
    z = 3 * torch.randn(6, 5, generator=draw, dtype=torch.float64)
    return z, torch.randint(5, (6,), generator=draw), ClassDirections.of(torch.randn(5, 4, generator=draw))


def test_it_is_the_formula():
    z, y, directions = sample()
    y[0] = -100
    arguments = {"labels": y, "directions": directions, "similarity_temperature": 0.4, "temperature": 2.0}
    expected = brute_force_class_similarity_kl(z, **arguments)
    torch.testing.assert_close(class_similarity_kl(z, **arguments), expected, rtol=1e-6, atol=1e-8)


def test_with_a_low_temperature_of_similarity_it_is_the_cross_entropy_of_labels():
    z, y, directions = sample()
    value = class_similarity_kl(z, labels=y, directions=directions, similarity_temperature=1e-3)
    torch.testing.assert_close(value, cross_entropy(z, labels=y))


def test_with_orthogonal_classes_it_is_label_smoothing():
    z, y, _ = sample()
    z = z.requires_grad_()
    same = {"labels": y, "directions": ClassDirections.of(torch.eye(5)), "similarity_temperature": 0.5}
    others = 1 / (4 + math.exp(2))  # of each other class
    (slope,) = torch.autograd.grad(class_similarity_kl(z, **same).sum(), z)
    (expected,) = torch.autograd.grad(label_smoothing(z, labels=y, smoothing=5 * others).sum(), z)
    torch.testing.assert_close(slope, expected)


def test_it_keeps_the_laws_that_do_not_permute_classes():
    check_kernel(class_similarity_kl, logits=False, classes=2, hyper={"directions": ClassDirections.of(torch.eye(2))})


def test_a_class_that_the_student_lacks_is_not_asked_for():
    z, y, directions = sample()
    z[:, 4] = -torch.inf
    assert class_similarity_kl(z, labels=y.clamp_max(3), directions=directions).isfinite().all()


def test_the_teacher_is_not_run():
    planted = Planted()
    planted.truth.forward = None
    planted.learn(make("kd_sim", teacher=planted.truth), epochs=1)


def test_a_teacher_without_a_last_layer_is_refused():
    with pytest.raises(LimbeckError, match="kd_pt"):
        Planted().learn(make("kd_sim", teacher=nn.Identity()), epochs=1)
    with pytest.raises(LimbeckError, match="module"):
        Planted().learn(make("kd_sim", teacher=PrecomputedTeacher(torch.zeros(120, 4))), epochs=1)


@pytest.mark.parametrize(("wrong", "value"), [("temperature", 0.0), ("similarity_temperature", 0.0), ("weight", -0.1)])
def test_a_value_out_of_range_is_refused(wrong, value):
    with pytest.raises(LimbeckError, match="temperature" if "temperature" in wrong else wrong):
        make("kd_sim", teacher=nn.Linear(4, 3), **{wrong: value})


def test_similar_classes_are_learned():
    """Class 3 of the teacher resembles class 0: the student puts it second where the label is 0."""
    teacher, planted = nn.Linear(10, 4), Planted()
    labels = planted.x[:, :4].argmax(-1)
    with torch.no_grad():
        teacher.weight.copy_(torch.eye(10)[[0, 1, 2, 0]] + 0.5 * torch.eye(10)[[4, 5, 6, 3]])
    student = planted.learn(make("kd_sim", teacher=teacher, weight=1.0), epochs=30, labels=labels).student
    with torch.no_grad():
        q = student(planted.x[labels == 0]).softmax(-1).mean(0)
    assert q[3] > 2 * q[1:3].max()


@pytest.mark.parametrize("classes", [2, 4])
def test_a_teacher_of_other_classes_is_refused(classes):
    with pytest.raises(LimbeckError, match=f"{classes} classes.*3"):
        class_similarity_kl(
            torch.zeros(2, 3),
            labels=torch.zeros(2, dtype=torch.int64),
            directions=ClassDirections.of(torch.eye(classes)),
        )
