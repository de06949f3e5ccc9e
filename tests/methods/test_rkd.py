"""Relational distillation: the formulas of the paper with plain loops, invariances, limits, and the claim."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.errors import ArgumentError
from limbeck.methods import make
from limbeck.methods.relations.rkd import rkd_angle, rkd_distance
from methods.planted import Planted


def brute_force_rkd_distance(student, teacher, mask=None):
    ours, theirs = (_relative(_rows(features, mask)) for features in (student, teacher))
    pairs = [[_huber(a, b) for a, b in zip(x, y, strict=True)] for x, y in zip(ours, theirs, strict=True)]
    return torch.tensor(pairs, dtype=torch.float64)


def brute_force_rkd_angle(student, teacher, mask=None):
    ours, theirs = _rows(student, mask), _rows(teacher, mask)
    size = range(len(ours))
    mean = [
        [sum(_huber(_angle(ours, i, j, k), _angle(theirs, i, j, k)) for j in size) / len(ours) for k in size]
        for i in size
    ]
    return torch.tensor(mean, dtype=torch.float64)


def _rows(features, mask):
    features = features.double()
    if mask is not None and mask.shape == features.shape[: mask.ndim]:
        features = features * mask.double().reshape(*mask.shape, *[1] * (features.ndim - mask.ndim))
    return [example.flatten().tolist() for example in features]


def _relative(rows):
    distances = [[math.dist(x, y) for y in rows] for x in rows]
    others = [distances[i][j] for i in range(len(rows)) for j in range(len(rows)) if i != j]
    mean = sum(others) / len(others) if others else 0.0
    return [[value / (mean or 1.0) for value in row] for row in distances]


def _huber(a, b):
    return (a - b) ** 2 / 2 if abs(a - b) < 1 else abs(a - b) - 0.5


def _angle(rows, i, j, k):
    to_i, to_k = ([a - b for a, b in zip(rows[end], rows[j], strict=True)] for end in (i, k))
    lengths = math.hypot(*to_i) * math.hypot(*to_k)
    return sum(a * b for a, b in zip(to_i, to_k, strict=True)) / lengths if lengths else 0.0


BRUTE_FORCE = [(rkd_distance, brute_force_rkd_distance), (rkd_angle, brute_force_rkd_angle)]
CASES = pytest.mark.parametrize(("kernel", "expected"), BRUTE_FORCE, ids=["distance", "angle"])


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@CASES
@pytest.mark.parametrize("shapes", [((6, 3), (6, 5)), ((4, 2, 3, 3), (4, 3, 2, 2)), ((1, 3), (1, 2)), ((2, 3), (2, 4))])
def test_it_is_the_formula_of_the_paper(kernel, expected, shapes):
    s, t = draw(*shapes[0]), draw(*shapes[1], seed=1)
    torch.testing.assert_close(kernel(s, t), expected(s, t))
    torch.testing.assert_close(kernel(s.float(), t.float()), expected(s, t).float(), rtol=1e-4, atol=1e-6)


@CASES
def test_equal_examples_have_a_distance_of_0_and_finite_gradients(kernel, expected):
    s, t = draw(5, 3), draw(5, 4, seed=1)
    s[3], t[2] = s[1], t[1]
    s.requires_grad_()
    value = kernel(s, t)
    torch.testing.assert_close(value.detach(), expected(s.detach(), t))
    (slope,) = torch.autograd.grad(value.sum(), s)
    assert slope.isfinite().all()
    assert slope.abs().max() < 100


@CASES
def test_nearly_equal_examples_far_from_the_origin_keep_their_digits(kernel, expected):
    s, t = 1000 + 1e-3 * draw(5, 3), draw(5, 3, seed=1)
    torch.testing.assert_close(kernel(s, t), expected(s, t), rtol=1e-6, atol=1e-9)


@CASES
def test_a_rotated_shifted_and_scaled_copy_is_a_loss_of_0(kernel, expected):
    s = draw(6, 4)
    copy = -3e5 * (s @ torch.linalg.qr(draw(4, 4, seed=2)).Q) + 7.0
    assert float(kernel(torch.nn.functional.pad(copy, (0, 2)), s).max()) < 1e-20


@CASES
def test_positions_that_do_not_count_change_nothing(kernel, expected):
    s, t, mask = draw(3, 4, 2), draw(3, 4, 5, seed=1), torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]).bool()
    value = kernel(s, t, mask)
    torch.testing.assert_close(value, expected(s, t, mask))
    s[~mask] = torch.nan
    torch.testing.assert_close(kernel(s, t, mask), value)


@CASES
@pytest.mark.parametrize("size", [0, 1])
def test_no_pair_is_no_loss(kernel, expected, size):
    assert torch.equal(kernel(torch.ones(size, 3), torch.zeros(size, 2)), torch.zeros(size, size))


def test_the_example_of_a_right_angle():
    corner = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    line = torch.tensor([[1.0], [2.0], [3.0]])
    # at the vertex 1 the cosine is 0 and -1; at the others, one of two equal points makes it 0
    assert float(rkd_angle(corner, line)[0, 2]) == pytest.approx(0.5 / 3)


def test_no_relation_at_all_is_refused():
    with pytest.raises(ArgumentError, match="distance_weight"):
        make("rkd", teacher=Planted().truth, at="layer1", student_at="layer1", distance_weight=0.0, angle_weight=0.0)


def test_relations_help_beside_the_student_alone():
    planted = Planted()
    places = {"at": "layer2", "student_at": "layer2"}
    recipe = make("rkd", teacher=planted.truth, **places, distance_weight=3.0, angle_weight=3.0)
    alone = planted.accuracy(planted.alone(epochs=20))
    assert planted.accuracy(planted.learn(recipe, epochs=20).student) > alone + 0.03
