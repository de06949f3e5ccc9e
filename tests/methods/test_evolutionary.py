"""Evolutionary KD: the teacher learns beside the student and does not feel it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from limbeck.data import ArrayDataset
from limbeck.engine import distill
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional import cross_entropy
from limbeck.losses import Loss
from limbeck.methods import make
from limbeck.models import build
from limbeck.recipe import Stage
from limbeck.testing.law import same_weights, weights

DRAW = torch.Generator().manual_seed(0)
X, Y = torch.randn(64, 6, generator=DRAW), torch.randint(3, (64,), generator=DRAW)
DATA = ArrayDataset(X, Y)
LAYERS = {"at": ["layer1", "layer2"], "student_at": ["layer1", "layer2"]}


def networks():
    return [build("mlp", inputs=6, classes=3, hidden=[width, width], seed=1) for width in (4, 8)]


def learn(student, recipe, **options):
    return distill(student, recipe, DATA, **{"batch_size": 16, "epochs": 3, "seed": 3, **options}).finish()


def run_with(**settings):
    student, teacher = networks()
    return learn(student, make("evolutionary", teacher=teacher, **{**LAYERS, **settings}))


def test_the_teacher_does_not_feel_the_student_and_the_student_feels_the_teacher():
    together, apart = run_with(), run_with(weight=0.0, guide_weight=0.0)
    assert same_weights(weights(together.models["evolving"]), weights(apart.models["evolving"]))
    assert not same_weights(weights(together.student), weights(apart.student))


def test_with_both_weights_0_the_student_learns_alone():
    student, _ = networks()
    alone = learn(student, Stage(Loss(cross_entropy))).student
    assert same_weights(weights(run_with(weight=0.0, guide_weight=0.0).student), weights(alone))


def test_the_teacher_s_network_is_not_changed_by_its_guided_modules():
    run = run_with()
    evolving, (_, teacher) = run.models["evolving"], networks()
    assert same_weights(weights(teacher), weights(networks()[1]))  # the one that was given
    evolving.eval()
    assert torch.equal(evolving(X), evolving.network(X))
    slopes = torch.autograd.grad(_branch_loss(evolving), list(evolving.network.parameters()), allow_unused=True)
    assert all(slope is None for slope in slopes)


def _branch_loss(evolving):
    read = []
    handle = evolving.branches[0].register_forward_hook(lambda module, given, output: read.append(output))
    evolving(X)
    handle.remove()
    return read[0].sum()


def test_the_guides_alone_change_the_student():
    assert not same_weights(
        weights(run_with(weight=0.0).student), weights(run_with(weight=0.0, guide_weight=0).student)
    )


def test_an_example_without_a_label_is_guided_by_the_teacher_alone():
    student, teacher = networks()
    few = ArrayDataset(X, Y.masked_fill(torch.arange(64) % 2 == 0, -100))
    run = distill(student, make("evolutionary", teacher=teacher, **LAYERS), few, batch_size=16, epochs=1).finish()
    assert all(bool(tensor.isfinite().all()) for tensor in weights(run.student).values())


def test_what_cannot_be_is_refused():
    teacher = nn.Linear(4, 3)
    for wrong in ({"weight": -1.0}, {"temperature": 0.0}, {"guide_weight": -1.0}, {"width": 0}):
        with pytest.raises(LimbeckError, match=next(iter(wrong))):
            make("evolutionary", teacher=teacher, **LAYERS, **wrong)
    with pytest.raises(ArgumentError, match="student_at"):
        make("evolutionary", teacher=teacher, at="layer1", student_at=["layer1", "layer2"])
    student, theirs = networks()
    with pytest.raises(LimbeckError, match="layer7"):
        learn(copy.deepcopy(student), make("evolutionary", teacher=theirs, at="layer7", student_at="layer1"))
