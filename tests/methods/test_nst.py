"""Selectivity of channels: the brute force of its discrepancy, its invariances, and what a student learns."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.errors import LimbeckError, UnknownNameError
from limbeck.methods import make
from limbeck.methods.features.nst import SIMILARITIES, selectivity_mmd
from methods.planted_maps import PLANTED


def brute_force_selectivity_mmd(student, teacher, mask=None, *, similarity="polynomial"):
    values = []
    for one, other in zip(student.double(), teacher.double(), strict=True):
        tokens = one.ndim == 2
        counts = mask[len(values)].tolist() if mask is not None and tokens else None
        samples = [_channels(x.T if tokens else x.flatten(1), counts) for x in (one, other)]
        pairs = [(x, y) for x in samples[1] for y in samples[0]]
        sigma = sum(_squared(x, y) for x, y in pairs) / len(pairs)

        def k(x, y, sigma=sigma):
            product = sum(a * b for a, b in zip(x, y, strict=True))
            gaussian = math.exp(-_squared(x, y) / (2 * (sigma or 1.0)))
            return {"linear": product, "polynomial": product**2, "gaussian": gaussian}[similarity]

        means = [sum(k(x, y) for x in a for y in b) / len(a) / len(b) for a in samples for b in samples]
        values.append(means[0] - means[1] - means[2] + means[3])
    return torch.tensor(values, dtype=torch.float64)


def _channels(rows, counts):
    kept = [[float(v) for v, c in zip(row, counts or [True] * len(row), strict=True) if c] for row in rows]
    norms = [math.sqrt(sum(v * v for v in row)) or 1.0 for row in kept]
    return [[v / norm for v in row] for row, norm in zip(kept, norms, strict=True)]


def _squared(x, y):
    return sum((a - b) ** 2 for a, b in zip(x, y, strict=True))


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_it_is_the_brute_force(similarity):
    for shapes in (((3, 4, 2, 3), (3, 6, 2, 3)), ((3, 5, 4), (3, 5, 2))):
        student, teacher = (draw(*shape, seed=i) for i, shape in enumerate(shapes))
        mask = torch.tensor([[True] * 5, [True, True, False, True, False], [True, True, True, False, False]])
        expected = brute_force_selectivity_mmd(student, teacher, mask, similarity=similarity)
        torch.testing.assert_close(selectivity_mmd(student, teacher, mask, similarity=similarity), expected)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_the_order_and_the_scale_of_channels_do_not_matter(similarity):
    student = draw(2, 5, 3, 3)
    teacher = student[:, [3, 1, 4, 0, 2]] * torch.tensor([1.0, 3.0, 0.2, 7.0, 1e-9], dtype=torch.float64).reshape(
        5, 1, 1
    )
    value = selectivity_mmd(student, teacher, similarity=similarity)
    torch.testing.assert_close(value, torch.zeros_like(value))


def test_a_dead_channel_and_an_empty_batch_are_finite():
    student = draw(2, 3, 2, 2).index_fill(1, torch.tensor([1]), 0.0).requires_grad_()
    for similarity in SIMILARITIES:
        (slope,) = torch.autograd.grad(selectivity_mmd(student, draw(2, 4, 2, 2), similarity=similarity).sum(), student)
        assert bool(slope.isfinite().all())
        assert selectivity_mmd(student[:0], draw(0, 4, 4, 4), similarity=similarity).shape == (0,)


def test_one_position_and_an_unknown_similarity_are_refused():
    with pytest.raises(LimbeckError, match="only one"):
        selectivity_mmd(torch.ones(2, 6), torch.ones(2, 6))
    with pytest.raises(UnknownNameError, match="Did you mean 'gaussian'"):
        make("nst", teacher="t", at="a", student_at="a", similarity="gausian")


def test_the_student_s_channels_come_nearer_to_the_teacher_s():
    distances = []
    for weight in (0.0, 50.0):
        recipe = make("nst", teacher=PLANTED.truth, weight=weight, at="layer1", student_at="layer1")
        student = PLANTED.learn(recipe, epochs=8).student
        with torch.no_grad():
            maps = [model.eval().layer1(PLANTED.test) for model in (student, PLANTED.truth)]
            distances.append(selectivity_mmd(*maps).mean().item())
    assert distances[1] < 0.8 * distances[0]
