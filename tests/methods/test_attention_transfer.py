"""Attention maps: their brute force, their limits, and what a student learns from them."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional.feature_maps import match_positions
from limbeck.methods import make
from limbeck.methods.features.attention_transfer import attention_distance
from methods.planted_maps import PLANTED


def brute_force_attention_distance(student, teacher, mask=None, *, power=2.0, squared=False):
    values = []
    for one, other in zip(student.double(), teacher.double(), strict=True):
        tokens = one.ndim == 2
        sides = [x if tokens else x.flatten(1).T for x in (one, other)]
        counts = [True] * len(sides[0]) if mask is None or not tokens else mask[len(values)].tolist()
        maps = []
        for side in sides:
            energy = [
                sum(abs(float(v)) ** power for v in row) if c else 0.0 for row, c in zip(side, counts, strict=True)
            ]
            norm = math.sqrt(sum(e * e for e in energy))
            maps.append([e / norm if norm else 0.0 for e in energy])
        distance = sum((a - b) ** 2 for a, b in zip(*maps, strict=True))
        values.append((distance if squared else math.sqrt(distance)) / max(sum(counts), 1))
    return torch.tensor(values, dtype=torch.float64)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
def test_it_is_the_brute_force(power, squared):
    for shapes in (((3, 4, 2, 3), (3, 6, 2, 3)), ((3, 5, 4), (3, 5, 2))):
        student, teacher = (draw(*shape, seed=i) for i, shape in enumerate(shapes))
        mask = torch.rand(3, 5) < 0.7
        hyper = {"power": power, "squared": squared}
        expected = brute_force_attention_distance(student, teacher, mask, **hyper)
        torch.testing.assert_close(attention_distance(student, teacher, mask, **hyper), expected)


def test_padding_does_not_count():
    student, teacher = draw(2, 5, 4), draw(2, 5, 6, seed=1)
    mask = torch.tensor([[True] * 3 + [False] * 2] * 2)
    expected = attention_distance(student[:, :3], teacher[:, :3])
    torch.testing.assert_close(attention_distance(student, teacher, mask), expected)


def test_maps_of_two_sizes_are_compared_at_the_smaller():
    student, teacher = draw(2, 3, 4, 4), draw(2, 5, 2, 8, seed=1)
    small = [torch.nn.functional.adaptive_avg_pool2d(x, (2, 4)) for x in (student, teacher)]
    torch.testing.assert_close(attention_distance(student, teacher), attention_distance(*small))
    assert [x.shape[1] for x in match_positions(student, teacher)] == [8, 8]


def test_the_largest_distance_is_that_of_maps_without_a_common_position():
    one, other = torch.eye(4)[:1, :, None], torch.eye(4)[1:2, :, None]
    assert attention_distance(one, other).item() == pytest.approx(math.sqrt(2) / 4)


def test_a_map_of_zeros_and_an_empty_batch_are_finite():
    student = torch.zeros(2, 3, 2, 2, requires_grad=True)
    attention_distance(student, torch.ones(2, 3, 2, 2)).sum().backward()
    assert bool(student.grad.isfinite().all())
    assert attention_distance(torch.zeros(0, 3, 4, 4), torch.zeros(0, 5, 2, 2)).shape == (0,)


@pytest.mark.parametrize("features", [torch.ones(2, 6), torch.ones(2, 1, 6)])
def test_one_position_is_refused(features):
    with pytest.raises(LimbeckError, match="one position"):
        attention_distance(features, features)


def test_tokens_of_two_numbers_are_refused():
    with pytest.raises(LimbeckError, match="5 positions and the teacher 6"):
        attention_distance(torch.ones(2, 5, 3), torch.ones(2, 6, 3))


@pytest.mark.parametrize("wrong", [{"power": 0.0}, {"weight": -1.0}, {"student_at": ["layer1"]}, {"at": []}])
def test_wrong_arguments_are_refused_when_it_is_built(wrong):
    with pytest.raises(ArgumentError) as caught:
        make("attention_transfer", **{"teacher": "t", "at": ["a", "b"], "student_at": ["a", "b"]} | wrong)
    assert caught.value.argument in {*wrong, "student_at"}


def test_a_student_that_looks_where_the_teacher_looks_learns_from_fewer_labels():
    recipe = make("attention_transfer", teacher=PLANTED.truth, at="layer1", student_at="layer1", weight=100.0)
    assert PLANTED.accuracy(PLANTED.learn(recipe).student) > PLANTED.accuracy_alone + 0.03
