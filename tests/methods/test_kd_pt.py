"""KD-pt keeps the teacher's probability of the label and spreads the rest."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.functional import kl_divergence, label_smoothing
from limbeck.methods import make
from limbeck.methods.logits.kd_pt import label_confidence_kl
from limbeck.methods.logits.kd_topk import top_k_spread_kl
from methods.planted import Planted


def brute_force_label_confidence_kl(student, teacher, *, labels, temperature=1.0):
    """The same with loops over rows and classes."""
    classes = student.shape[-1]
    flat = (side.double().reshape(-1, classes).tolist() for side in (student, teacher))
    rows = zip(*flat, labels.reshape(-1).tolist(), strict=True)
    values = [0.0 if y == -100 else _row(z, v, y, temperature) for z, v, y in rows]
    return torch.tensor(values, dtype=torch.float64).view(student.shape[:-1])


def _row(z, v, y, temperature):
    there = [c for c in range(len(z)) if max(z[c], v[c]) > -math.inf]

    def softmax(row):
        top = max(row[c] / temperature for c in there)
        weights = {c: math.exp(row[c] / temperature - top) for c in there}
        return {c: weights[c] / sum(weights.values()) for c in there}

    q, p = softmax(z), softmax(v)
    even = sum(p[c] for c in there if c != y) / max(len(there) - 1, 1)
    target = {c: p[c] if c == y else even for c in there}
    return sum(t * math.log(t / q[c]) for c, t in target.items() if t)


def sample(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    z, v = (3 * torch.randn(*shape, generator=draw, dtype=torch.float64) for _ in range(2))
    return z, v, torch.randint(shape[-1], shape[:-1], generator=draw)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_it_is_the_formula(temperature):
    z, v, y = sample(5, 2, 7)
    y[0, 0] = -100
    expected = brute_force_label_confidence_kl(z, v, labels=y, temperature=temperature)
    torch.testing.assert_close(label_confidence_kl(z, v, labels=y, temperature=temperature), expected)


def test_with_two_classes_it_is_distillation():
    z, v, y = sample(6, 2)
    torch.testing.assert_close(label_confidence_kl(z, v, labels=y), kl_divergence(z, v))


def test_where_the_teacher_is_right_it_is_kd_topk_with_k_1():
    z, v, _ = sample(6, 5)
    torch.testing.assert_close(label_confidence_kl(z, v, labels=v.argmax(-1)), top_k_spread_kl(z, v, k=1))


def test_it_is_label_smoothing_with_the_teacher_s_strength():
    z, _, y = sample(6, 5)
    v = torch.full_like(z, math.log(0.02)).scatter(-1, y[:, None], math.log(0.92))
    z = z.requires_grad_()
    (slope,) = torch.autograd.grad(label_confidence_kl(z, v, labels=y).sum(), z)
    (expected,) = torch.autograd.grad(label_smoothing(z, labels=y, smoothing=0.1).sum(), z)
    torch.testing.assert_close(slope, expected)


def test_other_classes_of_the_teacher_do_not_matter():
    z, v, _ = sample(6, 5)
    y = torch.zeros(6, dtype=torch.int64)
    moved = torch.cat([v[:, :1], v[:, 1:].flip(-1)], -1)
    torch.testing.assert_close(label_confidence_kl(z, moved, labels=y), label_confidence_kl(z, v, labels=y))


@pytest.mark.parametrize(("wrong", "value"), [("temperature", 0.0), ("weight", -0.1)])
def test_a_value_out_of_range_is_refused(wrong, value):
    with pytest.raises(LimbeckError, match=wrong):
        make("kd_pt", teacher=nn.Linear(4, 3), **{wrong: value})


def test_it_refuses_several_labels():
    with pytest.raises(LimbeckError, match="one label"):
        make("kd_pt", teacher=nn.Linear(4, 3), task="multi_label")


def test_a_student_that_knows_how_sure_the_teacher_is_passes_the_student_alone():
    planted = Planted()
    alone = planted.nll(planted.alone(epochs=30))
    recipe = make("kd_pt", teacher=planted.truth, temperature=1.0)
    assert planted.nll(planted.learn(recipe, epochs=30).student) < alone - 0.05


def test_a_teacher_with_one_output_is_not_broadcast():
    with pytest.raises(LimbeckError, match="same classes"):
        label_confidence_kl(torch.zeros(2, 3), torch.zeros(2, 1), labels=torch.zeros(2, dtype=torch.int64))
