"""OFD: the partial distance, margins against a numeric integral, and where the margins come from."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs
from limbeck.errors import ArgumentError
from limbeck.losses import LossContext
from limbeck.methods import make
from limbeck.methods.features.ofd import MarginDistance, batchnorm_margins, partial_l2
from limbeck.teachers import as_teacher
from methods.planted import Planted


def brute_force_partial_l2(student, teacher, mask=None, *, margin):
    values = []
    for one, other in zip(student.double(), teacher.double(), strict=True):
        total = 0.0
        for c in range(len(one)):
            m = min(float(margin[c]), 0.0)
            for s, t in zip(one[c].flatten().tolist(), other[c].flatten().tolist(), strict=True):
                t = max(t, m)
                total += 0.0 if s <= t <= 0 else (t - s) ** 2
        values.append(total)
    return torch.tensor(values, dtype=torch.float64)


def test_the_two_zones_of_the_distance():
    margin = torch.tensor([-2.0])
    student = torch.tensor([[-9.0], [-1.0], [1.0], [1.0]])
    teacher = torch.tensor([[-5.0], [-5.0], [-5.0], [3.0]])
    assert partial_l2(student, teacher, margin=margin).tolist() == [0.0, 1.0, 9.0, 4.0]


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (1.5, -0.7), (-2.0, 0.5), (1.0, 0.5), (0.3, 2.0)])
def test_a_margin_is_the_mean_of_a_normal_below_0(shift, scale):
    norm = nn.BatchNorm2d(1)
    nn.init.constant_(norm.bias, shift)
    nn.init.constant_(norm.weight, scale)
    width = abs(scale)
    step = width / 2000
    points = [-i * step for i in range(1, 60000)]
    mass = [math.exp(-((x - shift) ** 2) / (2 * width**2)) for x in points]
    expected = sum(x * w for x, w in zip(points, mass, strict=True)) / sum(mass)
    assert batchnorm_margins(norm).item() == pytest.approx(expected, rel=2e-3)


def test_margins_stay_finite_where_nothing_is_negative():
    norm = nn.BatchNorm1d(3)
    norm.bias.data, norm.weight.data = torch.tensor([100.0, 5.0, -5.0]), torch.tensor([1e-3, 0.0, 0.0])
    margins = batchnorm_margins(norm)
    assert bool(margins.isfinite().all())
    assert margins.tolist()[1:] == [0.0, -5.0]
    assert -1e-3 < margins[0] <= 0
    assert batchnorm_margins(nn.BatchNorm1d(2, affine=False)).tolist() == pytest.approx([-math.sqrt(2 / math.pi)] * 2)


def fitted(teacher, address, features):
    outputs = Outputs({"a": torch.randn(len(features), 2)}), Outputs({address: features})
    term = MarginDistance([("a", address)], None if teacher is None else as_teacher(teacher))
    return term.setup(LossContext(*outputs, Batch(torch.zeros(len(features), 1))))


def test_margins_are_those_of_the_batchnorm_else_of_the_first_batch():
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    nn.init.uniform_(network[1].bias)
    features = torch.tensor([[1.0, -1.0, -4.0], [2.0, -3.0, 5.0]])
    assert torch.equal(fitted(network, "1", features).margin0, batchnorm_margins(network[1]))
    for teacher, address in ((None, "1"), (network, "0"), (network, "1:in")):
        assert fitted(teacher, address, features).margin0.tolist() == [0.0, -2.0, -4.0]


def test_a_negative_weight_is_refused():
    with pytest.raises(ArgumentError):
        make("ofd", teacher="t", at="a", student_at="a", weight=-1.0)


def test_features_before_the_relu_help():
    planted = Planted()
    alone = planted.accuracy(planted.alone(epochs=30))
    layers = ["layer1.1", "layer2.1"]
    recipe = make("ofd", teacher=planted.truth, at=layers, student_at=layers, weight=0.1)
    assert planted.accuracy(planted.learn(recipe, epochs=30).student) > alone + 0.03
