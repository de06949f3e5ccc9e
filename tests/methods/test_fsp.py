"""FSP matrices: their brute force, and a first stage that learns them."""

from __future__ import annotations

import pytest
import torch

from limbeck.errors import ArgumentError, LimbeckError
from limbeck.methods import make
from limbeck.methods.features.fsp import fsp_distance
from limbeck.recipe import Recipe
from limbeck.testing.law import weights
from methods.planted_maps import PLANTED

PAIR = {"at": ["layer1", "layer2"], "student_at": ["layer1", "layer2"]}


def brute_force_fsp_distance(low, high, teacher_low, teacher_high, mask=None):
    values = []
    for example in zip(low, high, teacher_low, teacher_high, strict=True):
        one, two, three, four = (x.double() if x.ndim == 2 else x.double().flatten(1).T for x in example)
        counts = [True] * len(one) if mask is None or low.ndim != 3 else mask[len(values)].tolist()
        total = 0.0
        for i in range(one.shape[1]):
            for j in range(two.shape[1]):
                ours = sum(float(a[i] * b[j]) for a, b, c in zip(one, two, counts, strict=True) if c)
                theirs = sum(float(a[i] * b[j]) for a, b, c in zip(three, four, counts, strict=True) if c)
                total += ((ours - theirs) / max(sum(counts), 1)) ** 2
        values.append(total)
    return torch.tensor(values, dtype=torch.float64)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(2, 3), (5,)])
def test_it_is_the_brute_force(shape):
    maps = len(shape) == 2
    low, high, *teacher = (
        draw(3, width, *shape, seed=i) if maps else draw(3, *shape, width, seed=i)
        for i, width in enumerate((4, 2, 4, 2))
    )
    mask = torch.rand(3, 5) < 0.7
    expected = brute_force_fsp_distance(low, high, *teacher, mask)
    torch.testing.assert_close(fsp_distance(low, high, *teacher, mask), expected)


def test_the_larger_map_is_max_pooled_and_the_sizes_of_the_two_models_may_differ():
    low, high = draw(2, 3, 4, 4), draw(2, 5, 2, 2, seed=1)
    pooled = torch.nn.functional.max_pool2d(low, 2)
    torch.testing.assert_close(fsp_distance(low, high, pooled, high), torch.zeros(2, dtype=torch.float64))
    assert fsp_distance(low, high, draw(2, 3, 8, 8), draw(2, 5, 8, 8)).shape == (2,)
    assert fsp_distance(*(x[:0] for x in (low, high, low, high))).shape == (0,)


def test_other_widths_are_refused_with_what_to_type():
    with pytest.raises(LimbeckError, match="projector=True"):
        fsp_distance(draw(2, 3), draw(2, 4), draw(2, 3), draw(2, 5))


def test_one_layer_is_refused():
    with pytest.raises(ArgumentError):
        make("fsp", teacher="t", at="layer1", student_at="layer1")


def test_the_flow_is_a_better_start_than_none():
    recipe = make("fsp", teacher=PLANTED.truth, **PAIR)
    student = PLANTED.network()
    before = weights(student)
    first = PLANTED.learn(Recipe(next(recipe.stages())), student=student, epochs=2)
    moved = {name for name, after in weights(first.student).items() if not torch.equal(after, before[name])}
    assert moved == {name for name in before if name.startswith(("layer1.", "layer2."))}
    assert PLANTED.accuracy(PLANTED.learn(recipe).student) > PLANTED.accuracy_alone + 0.03
