"""A moving average is kept in a model of the run, which a recipe can ship."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from limbeck.errors import UnknownNameError
from limbeck.teachers import MovingAverage, TeacherContext


def test_the_average_is_the_model_of_that_name():
    torch.manual_seed(0)
    student = nn.Linear(2, 3)
    models = {"student": student, "average": copy.deepcopy(student)}
    context = TeacherContext(models=models)
    kept, own = (MovingAverage(decay=0.5, into=into).open(context) for into in ("average", None))
    assert kept.model is models["average"]
    with torch.no_grad():
        student.weight.add_(1.0)
    for teacher in (kept, own):
        teacher.after_step()
    assert torch.equal(kept.model.weight, own.model.weight)
    assert models["average"].weight.requires_grad


def test_it_begins_with_the_weights_that_the_model_has():
    average = nn.Linear(2, 3)
    begun = average.weight.detach().clone()
    context = TeacherContext(models={"student": nn.Linear(2, 3), "average": average})
    teacher = MovingAverage(decay=0.9, into="average").open(context)
    assert torch.equal(teacher.model.weight, begun)
    assert teacher.state_dict()["steps"] == 0


def test_a_model_that_the_run_does_not_have_is_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'average'"):
        MovingAverage(into="averge").open(
            TeacherContext(models={"student": nn.Linear(2, 3), "average": nn.Linear(2, 3)})
        )
