"""Accuracy under attack, against the exact worst case of a linear model."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.data import ArrayDataset, NormalizeImages
from limbeck.data.adversarial_loader import Attack
from limbeck.errors import ArgumentError, DataError, LimbeckError
from limbeck.metrics import accuracy, predict, robust_accuracy

DRAW = torch.Generator().manual_seed(0)
X, Y = torch.rand(200, 5, generator=DRAW), torch.randint(2, (200,), generator=DRAW)


def linear():
    torch.manual_seed(0)
    return nn.Linear(5, 2)


@pytest.mark.parametrize("epsilon", [0.0, 0.03, 0.2])
def test_of_two_classes_and_a_linear_model_it_is_the_exact_worst_case(epsilon):
    """The margin falls by at most the sum over inputs of |w| times what each of them can move within 0 and 1."""
    net = linear()
    w, b = (net.weight[1] - net.weight[0]).detach(), (net.bias[1] - net.bias[0]).detach()
    right = 0
    for x, y in zip(X, Y, strict=True):
        sign = 1.0 if y == 1 else -1.0
        worst = torch.where(sign * w > 0, (x - epsilon).clamp_min(0), (x + epsilon).clamp_max(1))
        right += bool(sign * (w @ worst + b) > 0)
    found = robust_accuracy(net, ArrayDataset(X, Y), Attack(epsilon=epsilon, steps=10))
    assert found.robust.value == pytest.approx(right / 200)
    assert found.clean.value == accuracy(predict(net, ArrayDataset(X, Y))).value
    assert found.weighted == pytest.approx((found.clean.value + right / 200) / 2)


def test_a_stronger_attack_never_gives_a_higher_accuracy():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 2)).train()
    attacks = [Attack(epsilon=epsilon, steps=20) for epsilon in (0.0, 0.1, 0.5)]
    values = [robust_accuracy(net, ArrayDataset(X, Y), attack).robust.value for attack in attacks]
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0]
    assert net.training
    assert all(parameter.grad is None for parameter in net.parameters())


def test_bytes_are_attacked_in_their_own_unit_before_the_preprocessing():
    pixels = torch.randint(0, 256, (50, 1, 2, 2), generator=DRAW).to(torch.uint8)
    labels = torch.randint(3, (50,), generator=DRAW)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    normalize = NormalizeImages(mean=(0.0,), std=(1.0,), scale=1 / 255)
    attack = Attack(epsilon=0.05, steps=5)
    ours = robust_accuracy(net, ArrayDataset(pixels, labels), attack, preprocess=normalize)
    floats = robust_accuracy(net, ArrayDataset(pixels.float() / 255, labels), attack)
    assert ours == floats


def test_examples_without_a_label_do_not_count_and_batches_do_not_matter():
    few = Y.masked_fill(torch.arange(200) % 2 == 0, -100)
    attack = Attack(epsilon=0.1, steps=3)
    ids = torch.arange(200)
    whole = robust_accuracy(linear(), Batch(X, labels=few, id=ids), attack)
    parts = [Batch(X[a:b], labels=few[a:b], id=ids[a:b]) for a, b in ((0, 3), (3, 200))]
    assert robust_accuracy(linear(), parts, attack) == whole
    assert whole.clean.count == 100
    for wrong in (Batch(X), Batch(X, labels=torch.full((200,), -100))):
        with pytest.raises(DataError):
            robust_accuracy(linear(), wrong, attack)


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in ("epsilon", "step_size", "start", "low", "high") for value in (math.nan, math.inf)]
    + [("epsilon", -0.1), ("high", -1.0), ("high", 0.0)],
)
def test_an_attack_without_a_radius_or_a_range_is_refused(name, value):
    with pytest.raises(ArgumentError) as raised:
        Attack(**{"epsilon": 0.1, name: value})
    assert raised.value.argument == name


def test_inputs_that_are_no_numbers_are_refused():
    wrong = X.clone()
    wrong[3, 2] = math.nan
    with pytest.raises(LimbeckError):
        robust_accuracy(linear(), ArrayDataset(wrong, Y), Attack(epsilon=0.1))
