"""Annealing-KD follows growing logits, and then the labels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs, Progress
from limbeck.errors import LimbeckError
from limbeck.losses import weighted_loss
from limbeck.methods import make
from methods.planted import Planted
from methods.test_continuation_kd import brute_force_scaled_logit_hinge  # noqa: F401 - the suite of kernels calls it


@pytest.mark.parametrize(("step", "phi"), [(0, 0.25), (5, 0.75), (10, 1.0)])
def test_the_first_stage_is_the_squared_distance_to_scaled_logits(step, phi):
    stage, _ = make("annealing_kd", teacher=nn.Identity(), max_temperature=4).stages()
    draw = torch.Generator().manual_seed(0)
    z, v = (torch.randn(6, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    terms = stage.objective(Outputs(logits=z), Outputs(logits=v), Batch(z), Progress(step, 11))
    expected = (z - phi * v).square().sum(-1).mean()
    torch.testing.assert_close(weighted_loss(terms, stage.objective.counts(Batch(z))), expected)


def test_the_second_stage_is_supervised_and_has_no_teacher():
    _, stage = make("annealing_kd", teacher=nn.Identity()).stages()
    assert stage.teacher is None
    assert repr(stage.objective) == "Loss(cross_entropy)"


def test_regression_is_learned_by_its_own_losses():
    first, second = make("annealing_kd", teacher=nn.Linear(4, 1), task="regression").stages()
    assert "target_squared_error" in repr(second.objective)
    student, teacher = Outputs(logits=torch.zeros(3, 1)), Outputs(logits=torch.ones(3, 1))
    terms = first.objective(student, teacher, Batch(torch.zeros(3, 4)), Progress(9, 10))
    assert terms["scaled_logit_hinge"].mean == 1.0


def test_a_value_out_of_range_is_refused():
    with pytest.raises(LimbeckError, match="max_temperature"):
        make("annealing_kd", teacher=nn.Linear(4, 3), max_temperature=0)


def test_it_passes_the_student_alone():
    planted = Planted()
    alone = planted.accuracy(planted.alone(epochs=30))
    recipe = make("annealing_kd", teacher=planted.truth, epochs=3)
    assert planted.accuracy(planted.learn(recipe, epochs=30).student) > alone + 0.02
