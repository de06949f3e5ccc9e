"""Activation boundaries: the brute force of the loss, and a first stage that learns when neurons are active."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs, Progress
from limbeck.engine import distill
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional.connectors import Connector
from limbeck.losses import Loss, LossContext
from limbeck.methods import make
from limbeck.methods.features.ab import activation_boundary_loss
from limbeck.recipe import Recipe
from limbeck.testing.law import weights
from methods.planted import Planted

LAYER = {"at": "layer1.1", "student_at": "layer1.1"}


def brute_force_activation_boundary_loss(student, teacher, mask=None, *, margin=1.0):
    values = []
    for n, (one, other) in enumerate(zip(student.double(), teacher.double(), strict=True)):
        tokens = one.ndim == 2 and mask is not None
        total, count = 0.0, 0
        for place, (s, t) in enumerate(zip(one.flatten().tolist(), other.flatten().tolist(), strict=True)):
            if tokens and not bool(mask[n, place // one.shape[1]]):
                continue
            total += max(0.0, margin - s if t > 0 else margin + s) ** 2
            count += 1
        values.append(total / max(count, 1))
    return torch.tensor(values, dtype=torch.float64)


def draw(*shape, seed=0):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(6,), (5, 4), (3, 2, 4)])
def test_it_is_the_brute_force_for_rows_tokens_and_maps(shape):
    student, teacher, mask = draw(3, *shape), draw(3, *shape, seed=1), torch.rand(3, 5) < 0.6
    expected = brute_force_activation_boundary_loss(student, teacher, mask, margin=0.7)
    torch.testing.assert_close(activation_boundary_loss(student, teacher, mask, margin=0.7), expected)


def test_it_is_0_beyond_the_margin_on_the_same_side_whatever_the_strength():
    teacher = draw(4, 6)
    assert activation_boundary_loss(teacher.sign() * 1.0, 1e6 * teacher).abs().max() == 0
    assert activation_boundary_loss(-teacher.sign(), teacher).tolist() == [4.0] * 4


@pytest.mark.parametrize("margin", [0.0, -1.0, float("inf"), float("nan")])
def test_a_margin_is_above_0(margin):
    with pytest.raises(ArgumentError):
        make("ab", teacher="t", margin=margin, **LAYER)


def test_the_first_stage_moves_nothing_above_the_layer_and_its_connector_is_dropped():
    planted = Planted()
    student = planted.student()
    before = weights(student)
    planted.learn(Recipe(next(make("ab", teacher=planted.truth, **LAYER).stages())), student=student, epochs=2)
    moved = {name for name, after in weights(student).items() if not torch.equal(after, before[name])}
    assert moved == {name for name in before if name.startswith("layer1.")}
    assert weights(student).keys() == before.keys()


def test_a_student_that_knows_the_boundaries_learns_more_from_the_labels():
    planted = Planted()
    alone = planted.accuracy(planted.alone(epochs=30))
    recipe = make("ab", teacher=planted.truth, at="layer2.1", student_at="layer2.1")
    assert planted.accuracy(planted.learn(recipe, epochs=30).student) > alone + 0.02


def test_a_batchnorm_beside_the_student_is_no_batch_in_parts():
    planted = Planted()
    with pytest.raises(LimbeckError, match="BatchNorm"):
        distill(
            planted.student(), make("ab", teacher=planted.truth, **LAYER), planted.x, accumulate=2, epochs=1
        ).finish()


@pytest.mark.parametrize("padding", [0.0, 50.0])
def test_padding_is_no_part_of_the_statistics_of_the_connector(padding):
    draw = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(4, 6, 3, generator=draw), torch.randn(4, 6, 5, generator=draw)
    mask = torch.arange(6) < torch.tensor([[6], [4], [3], [2]])
    student[~mask] = padding
    torch.manual_seed(1)
    loss = Loss(activation_boundary_loss, student="a", teacher="b", head=Connector(norm=True))
    outputs, batch = (Outputs(a=student), Outputs(b=teacher)), Batch(torch.zeros(4), mask=mask)
    term = loss.setup(LossContext(*outputs, batch)).term(*outputs, batch, Progress())
    rows = loss.head.map.layers[0](student[mask])
    normalized = nn.functional.batch_norm(rows, None, None, training=True)
    wrong = (1 - torch.where(teacher[mask] > 0, normalized, -normalized)).clamp_min(0).square().mean(1)
    texts = mask.nonzero()[:, 0]
    expected = torch.stack([wrong[texts == n].mean() for n in range(4)]).mean()
    torch.testing.assert_close(term.mean, expected, rtol=1e-4, atol=1e-5)


def test_examples_that_are_masked_are_no_part_of_it_either():
    rows, mask = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.arange(6) < 4
    head = Connector(norm=True)
    head.shape(rows, torch.zeros(6, 5))
    mapped = head(torch.where(mask[:, None], rows, 100.0), mask)
    torch.testing.assert_close(mapped[mask], head(rows[mask]))
