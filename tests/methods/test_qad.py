"""Quantization-aware distillation: what is trained, and that it regains what rounding loses."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from limbeck.engine import distill
from limbeck.errors import ArgumentError, LimbeckError, UnknownNameError
from limbeck.functional import cross_entropy
from limbeck.losses import Loss
from limbeck.methods.logits.hinton import hinton
from limbeck.methods.logits.qad import FLOAT, qad, quantize_recipe
from limbeck.models.quantization import (
    fake_quantize,
    find_quantized_layers,
    is_fake_quantized,
    observe_ranges,
    remove_fake_quantize,
)
from limbeck.recipe import Optimizer, Stage


def planted(seed=0):
    """A student that was trained on points of six classes, and those points."""
    torch.manual_seed(seed)
    centers = 1.2 * torch.randn(6, 8)
    labels = torch.arange(600) % 6
    inputs = centers[labels] + torch.randn(600, 8)
    student = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 6))
    distill(student, Stage(Loss(cross_entropy), epochs=6), (inputs, labels), optimizer=Optimizer(lr=1e-2)).finish()
    return student, (inputs, labels)


def agreement(model, other, inputs):
    with torch.no_grad():
        return float((model.eval()(inputs).argmax(1) == other.eval()(inputs).argmax(1)).float().mean())


def train(recipe, student, data, **arguments):
    own = copy.deepcopy(student)
    run = distill(own, recipe, data, epochs=10, optimizer=Optimizer(lr=3e-3), seed=0, **arguments)
    return run.finish()


def test_it_regains_what_rounding_loses():
    student, data = planted()
    rounded = fake_quantize(copy.deepcopy(student), weights="ternary", ranges=observe_ranges(student, [data[0]]))
    learned = train(quantize_recipe(None, weights="ternary"), student, data).student
    lost = 1 - agreement(rounded, student, data[0])
    assert lost > 0.05
    assert 1 - agreement(learned, student, data[0]) < 0.5 * lost


def test_the_float_student_teaches_and_does_not_change():
    student, data = planted()
    run = train(qad(nn.Linear(8, 6), float_epochs=0, weights="int4"), student, data)
    teacher = run.models[FLOAT]
    for mine, theirs in zip(student.parameters(), teacher.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert is_fake_quantized(run.student)
    assert not is_fake_quantized(teacher)
    assert set(find_quantized_layers(run.student)) == {"0", "2", "4"}


def test_with_float_epochs_the_student_learns_first_and_any_teacher_may_go_on():
    student, data = planted()
    run = train(qad(student, float_epochs=1, epochs=1, source="teacher"), nn.Linear(8, 6), data)
    assert [report.stage for report in run.history][:: max(len(run.history) - 1, 1)] == ["0 hinton", "1 quantized"]
    assert FLOAT not in run.models.existing


@pytest.mark.parametrize(
    "wrong", [{"weights": "int2"}, {"source": "other"}, {"examples": 0},
              {"quantized_temperature": 0.0}, {"float_epochs": -1}],
)  # fmt: skip
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises((ArgumentError, UnknownNameError)) as told:
        qad(nn.Linear(2, 2), **wrong)
    assert told.value.argument in (*wrong, "temperature")


def test_a_student_without_layers_to_round_is_refused():
    with pytest.raises(LimbeckError, match="no linear"):
        train(quantize_recipe(None), nn.Sequential(nn.BatchNorm1d(8)), planted()[1])


def test_ranges_are_those_of_training_examples_and_stay_fixed():
    student, data = planted()
    run = train(quantize_recipe(None, examples=600), student, data)
    quantizers = [module.get_submodule("input_quantizer") for module in find_quantized_layers(run.student).values()]
    assert float(quantizers[0].low) == float(data[0].min())
    assert float(quantizers[0].high) == float(data[0].max())


def test_without_a_second_training_it_is_post_training_quantization():
    student, data = planted()
    first, fresh = hinton(student, epochs=1), nn.Linear(8, 6)
    rounded = train(quantize_recipe(first, learn=False, examples=600), fresh, data).student
    plain = train(first, fresh, data).student
    own = fake_quantize(copy.deepcopy(plain), ranges=observe_ranges(plain, [data[0]]))
    assert torch.equal(rounded.weight, own.weight)
    assert torch.equal(rounded(data[0]), own(data[0]))
    assert torch.equal(remove_fake_quantize(rounded).weight, plain.weight)
    with pytest.raises(ArgumentError, match="fake_quantize"):
        quantize_recipe(None, learn=False)
