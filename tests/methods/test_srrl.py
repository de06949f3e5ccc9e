"""SRRL: two squared distances, one of them behind the teacher's classifier, which does not learn."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import LOGITS_INPUT, Batch, Outputs, Progress
from limbeck.engine import distill
from limbeck.errors import LastBatchError, LimbeckError
from limbeck.functional.feature_maps import mean_squared_distance
from limbeck.losses import LossContext
from limbeck.methods import make
from limbeck.methods.features.srrl import SoftmaxRegression
from limbeck.testing.law import same_weights, weights
from methods.planted import Planted


def brute_force_mean_squared_distance(student, teacher, mask=None):
    values = []
    for n, (one, other) in enumerate(zip(student.double(), teacher.double(), strict=True)):
        tokens = one.ndim == 2 and mask is not None
        kept = [i for i in range(len(one)) if not tokens or bool(mask[n, i])]
        pairs = [pair for i in kept for pair in zip(one[i].flatten(), other[i].flatten(), strict=True)]
        values.append(sum(float(a - b) ** 2 for a, b in pairs) / max(len(pairs), 1))
    return torch.tensor(values, dtype=torch.float64)


def test_the_term_is_the_formula_with_the_teacher_s_layer():
    torch.manual_seed(0)
    layer = nn.Linear(5, 3)
    student, teacher = torch.randn(8, 4), torch.randn(8, 5)
    outputs = Outputs({LOGITS_INPUT: student}), Outputs({LOGITS_INPUT: teacher})
    batch = Batch(torch.zeros(8, 1))
    term = SoftmaxRegression(2.0, 0.5).setup(LossContext(*outputs, batch, teacher_output_layer=layer))
    value = term.term(*outputs, batch, Progress()).total / 8
    connected = term.connector(student)
    expected = 2.0 * (connected - teacher).square().mean() + 0.5 * (layer(connected) - layer(teacher)).square().mean()
    torch.testing.assert_close(value, expected)
    value.backward()
    assert layer.weight.grad is None
    assert all(parameter.grad is not None for parameter in term.parameters())
    assert not set(layer.parameters()) & set(term.parameters())


def test_maps_are_compared_at_the_smaller_size():
    large = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert mean_squared_distance(large, nn.functional.avg_pool2d(large, 2)).item() == 0
    with pytest.raises(LimbeckError, match="2 channels and the teacher 3"):
        mean_squared_distance(torch.zeros(1, 2), torch.zeros(1, 3))


def test_a_teacher_without_a_linear_layer_is_refused():
    planted = Planted()
    strange = nn.Sequential(nn.Conv1d(10, 4, 1), nn.Flatten())
    with pytest.raises(LimbeckError):
        distill(planted.student(), make("srrl", teacher=strange), planted.x[:, :, None], epochs=1).finish()


def test_the_teacher_s_classifier_helps_and_stays_as_it_is():
    planted = Planted()
    alone = planted.accuracy(planted.alone(epochs=30))
    before = weights(planted.truth)
    assert planted.accuracy(planted.learn(make("srrl", teacher=planted.truth), epochs=30).student) > alone + 0.03
    assert same_weights(weights(planted.truth), before)


def test_a_batch_of_one_example_is_refused():
    planted = Planted(train=1)
    with pytest.raises(LastBatchError):
        planted.learn(make("srrl", teacher=planted.truth), epochs=1)
