"""Similarity-preserving distillation: the formula of the paper, invariances, masks, refusals and the claim."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.batch import Batch, Outputs, Progress
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional.relations import normalize_rows
from limbeck.losses import weighted_loss
from limbeck.methods import make
from limbeck.methods.relations.similarity_preserving import similarity_squared_error
from methods.planted import Planted


def brute_force_similarity_squared_error(student, teacher, mask=None):
    return torch.tensor(_differences(_similarities(student, mask), _similarities(teacher, mask)), dtype=torch.float64)


def _differences(ours, theirs):
    return [[(a - b) ** 2 for a, b in zip(x, y, strict=True)] for x, y in zip(ours, theirs, strict=True)]


def _similarities(features, mask):
    rows = [_numbers(features[i], None if mask is None else mask[i]) for i in range(len(features))]
    products = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in rows] for x in rows]
    lengths = [math.sqrt(sum(value * value for value in row)) or 1.0 for row in products]
    return [[value / length for value in row] for row, length in zip(products, lengths, strict=True)]


def _numbers(example, mask):
    example = example.double()
    if mask is None or mask.ndim == 0 or mask.shape != example.shape[: mask.ndim]:
        return example.flatten().tolist()
    return [
        number * float(counts) for row, counts in zip(example, mask, strict=True) for number in row.flatten().tolist()
    ]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("ours", "theirs"), [((5, 3), (5, 7)), ((4, 3, 2, 2), (4, 2, 4, 4)), ((1, 3), (1, 3)), ((6,), (6, 2))]
)
def test_it_is_the_formula_of_the_paper(ours, theirs):
    s, t = draw(*ours), draw(*theirs, seed=1)
    torch.testing.assert_close(similarity_squared_error(s, t), brute_force_similarity_squared_error(s, t))


def test_the_loss_is_the_squared_norm_over_the_squared_batch_size():
    s, t = draw(6, 3), draw(6, 4, seed=1)
    ours, theirs = (torch.nn.functional.normalize(x @ x.T, dim=1) for x in (s, t))
    torch.testing.assert_close(similarity_squared_error(s, t).mean(), (ours - theirs).norm() ** 2 / 36)


def test_rotations_scales_and_padding_with_zeros_change_nothing():
    s, t = draw(6, 4), draw(6, 5, seed=1)
    rotation = torch.linalg.qr(draw(4, 4, seed=2)).Q
    value = similarity_squared_error(s, t)
    for other in (s @ rotation, 1e-6 * s, 1e9 * s, -s, torch.nn.functional.pad(s, (0, 3))):
        torch.testing.assert_close(similarity_squared_error(other, t), value)
    assert float(similarity_squared_error(s, s @ rotation).max()) < 1e-25
    assert float(similarity_squared_error(s - s.mean(0), t).sub(value).abs().max()) > 1e-3  # no centering


def test_an_example_of_zeros_has_no_direction_and_no_gradient():
    s, t = draw(4, 3), draw(4, 3, seed=1)
    s[1] = 0
    s.requires_grad_()
    value = similarity_squared_error(s, t)
    (slope,) = torch.autograd.grad(value.sum(), s)
    assert value.isfinite().all()
    assert slope.abs().max() < 100  # torch.nn.functional.normalize makes 1e12 of it
    assert torch.equal(normalize_rows(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_positions_that_do_not_count_change_nothing():
    s, t, mask = draw(3, 4, 2), draw(3, 4, 5, seed=1), torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]).bool()
    value = similarity_squared_error(s, t, mask)
    torch.testing.assert_close(value, brute_force_similarity_squared_error(s, t, mask))
    s[~mask], t[~mask] = torch.nan, torch.inf
    torch.testing.assert_close(similarity_squared_error(s, t, mask), value)


def test_an_empty_batch_has_no_pairs():
    assert similarity_squared_error(torch.zeros(0, 3), torch.zeros(0, 5)).shape == (0, 0)


def test_several_layers_are_added():
    recipe = make(
        "similarity_preserving", teacher=Planted().truth, at=["layer1", "layer2"], student_at=["layer1", "layer2"]
    )
    (stage,) = recipe.stages()
    layers = [
        {"layer1": draw(6, 3, seed=i), "layer2": draw(6, 2, seed=i + 9), "logits": draw(6, 4, seed=i)} for i in (1, 2)
    ]
    ours, theirs = (Outputs(values) for values in layers)
    batch = Batch(torch.zeros(6, 1), labels=torch.arange(6) % 4)
    loss = weighted_loss(stage.objective(ours, theirs, batch, Progress()), stage.objective.counts(batch))
    hard = -ours["logits"].log_softmax(-1)[torch.arange(6), batch.labels].mean()
    pairs = sum(similarity_squared_error(ours[name], theirs[name]).mean() for name in ("layer1", "layer2"))
    torch.testing.assert_close(loss, hard + 3000 * pairs)


def test_what_cannot_be_is_refused_when_it_is_built():
    layers = {"teacher": Planted().truth, "at": "layer1", "student_at": "layer1"}
    with pytest.raises(ArgumentError, match=r"-1"):
        make("similarity_preserving", **layers, weight=-1.0)
    with pytest.raises(ArgumentError, match="soft_weight"):
        make("similarity_preserving", **layers, temperature=3.0)
    with pytest.raises(ArgumentError, match="student_at"):
        make("similarity_preserving", **{**layers, "at": ["layer1", "layer2"]})


def test_a_batch_in_parts_is_refused():
    planted = Planted()
    recipe = make("similarity_preserving", teacher=planted.truth, at="layer1", student_at="layer1")
    with pytest.raises(LimbeckError, match="accumulate"):
        planted.learn(recipe, epochs=1, accumulate=2)


def test_similarities_help_beside_the_student_alone():
    planted = Planted()
    recipe = make("similarity_preserving", teacher=planted.truth, at="layer2", student_at="layer2", weight=30.0)
    alone = planted.accuracy(planted.alone(epochs=20))
    assert planted.accuracy(planted.learn(recipe, epochs=20).student) > alone + 0.03
