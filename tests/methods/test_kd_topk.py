"""KD-topk keeps the k largest probabilities of the teacher and spreads the rest."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.functional import kl_divergence
from limbeck.methods import make
from limbeck.methods.logits.kd_topk import top_k_spread_kl
from methods.planted import Planted


def softmax(row):
    top = max(row)
    weights = [math.exp(value - top) if value > -math.inf else 0.0 for value in row]
    return [weight / sum(weights) for weight in weights]


def brute_force_top_k_spread_kl(student, teacher, *, k=10, temperature=1.0):
    """The same with loops over rows and classes."""
    classes = student.shape[-1]
    rows = zip(
        student.double().reshape(-1, classes).tolist(), teacher.double().reshape(-1, classes).tolist(), strict=True
    )
    return torch.tensor([_row(z, v, k, temperature) for z, v in rows], dtype=torch.float64).view(student.shape[:-1])


def _row(z, v, k, temperature):
    there = [c for c in range(len(z)) if max(z[c], v[c]) > -math.inf]
    if not there:
        return 0.0
    q, p = (softmax([row[c] / temperature for c in there]) for row in (z, v))
    kept = sorted(range(len(p)), key=lambda c: -p[c])[:k]
    others = [c for c in range(len(p)) if c not in kept]
    target = [p[c] if c in kept else sum(p[o] for o in others) / len(others) for c in range(len(p))]
    assert math.isclose(sum(target), 1.0)
    return sum(t * math.log(t / s) for t, s in zip(target, q, strict=True) if t)


def pair(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return tuple(3 * torch.randn(*shape, generator=draw, dtype=torch.float64) for _ in range(2))


@pytest.mark.parametrize("k", [1, 2, 4, 7])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_it_is_the_formula(k, temperature):
    z, v = pair(5, 2, 7)
    expected = brute_force_top_k_spread_kl(z, v, k=k, temperature=temperature)
    torch.testing.assert_close(top_k_spread_kl(z, v, k=k, temperature=temperature), expected)


@pytest.mark.parametrize("k", [6, 7, 100])
def test_with_all_classes_it_is_distillation(k):
    z, v = pair(5, 7)
    expected = kl_divergence(z, v, temperature=2.0) / 4
    torch.testing.assert_close(top_k_spread_kl(z, v, k=k, temperature=2.0), expected)


def test_it_is_zero_at_its_target_alone():
    _, v = pair(5, 7)
    p = v.softmax(-1)
    top = p.topk(2)
    target = ((1 - top.values.sum(-1, keepdim=True)) / 5).expand(5, 7).scatter(-1, top.indices, top.values)
    torch.testing.assert_close(top_k_spread_kl(target.log(), v, k=2), torch.zeros(5, dtype=torch.float64))
    assert (top_k_spread_kl(v, v, k=2) > 1e-4).all()


def test_a_tail_that_is_permuted_changes_nothing():
    z, v = pair(5, 7)
    order = v.argsort(-1, descending=True)
    moved = v.gather(-1, order)[:, [0, 1, 6, 4, 5, 3, 2]]
    back = torch.empty_like(v).scatter(-1, order, moved)
    torch.testing.assert_close(top_k_spread_kl(z, back, k=2), top_k_spread_kl(z, v, k=2))


def test_an_empty_batch_has_no_values():
    assert top_k_spread_kl(torch.zeros(0, 3), torch.zeros(0, 3), k=2).shape == (0,)


@pytest.mark.parametrize(
    ("wrong", "value"), [("k", 0), ("k", 2.5), ("temperature", 0.0), ("weight", 1.5), ("weight", math.nan)]
)
def test_a_value_out_of_range_is_refused(wrong, value):
    with pytest.raises(LimbeckError, match=wrong):
        make("kd_topk", teacher=nn.Linear(4, 3), **{wrong: value})


def test_it_refuses_several_labels():
    with pytest.raises(LimbeckError, match="one softmax"):
        make("kd_topk", teacher=nn.Linear(4, 3), task="multi_label")


def test_maps_have_their_classes_in_dimension_1():
    stage = next(make("kd_topk", teacher=nn.Conv2d(3, 4, 1), task="segmentation").stages())
    assert "classes=1" in repr(stage.objective)


def test_a_student_of_two_classes_of_the_teacher_passes_the_student_alone():
    planted = Planted()
    alone = planted.nll(planted.alone(epochs=30))
    recipe = make("kd_topk", teacher=planted.truth, k=2, temperature=1.0)
    assert planted.nll(planted.learn(recipe, epochs=30).student) < alone - 0.05


def test_a_teacher_with_one_output_is_not_broadcast():
    with pytest.raises(LimbeckError, match="same classes"):
        top_k_spread_kl(torch.zeros(2, 3), torch.zeros(2, 1))
