"""Factor transfer: the brute force of the distance, an autoencoder that learns first, and what a student learns."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.errors import ArgumentError, LimbeckError
from limbeck.methods import make
from limbeck.methods.features.factor_transfer import Paraphraser, factor_distance
from limbeck.recipe import Recipe
from limbeck.testing.law import same_weights, weights
from methods.planted_maps import PLANTED

LAYER = {"at": "layer2", "student_at": "layer2"}


def brute_force_factor_distance(student, teacher, *, p=1):
    values = []
    for one, other in zip(student.double(), teacher.double(), strict=True):
        sides = [x.flatten().tolist() for x in (one, other)]
        norms = [math.sqrt(sum(v * v for v in side)) for side in sides]
        gaps = [abs(a / norms[0] - b / norms[1]) for a, b in zip(*sides, strict=True)]
        values.append((sum(gaps) if p == 1 else math.sqrt(sum(g * g for g in gaps))) / len(gaps))
    return torch.tensor(values, dtype=torch.float64)


def paraphraser_of(run):
    """The only paraphraser of a run: its stages share it."""
    modules = {id(m): m for stage in run.stages for m in stage.objective.modules() if isinstance(m, Paraphraser)}
    (paraphraser,) = modules.values()
    return paraphraser


def test_factors_of_other_shapes_are_refused():
    with pytest.raises(LimbeckError):
        factor_distance(torch.zeros(2, 3), torch.zeros(2, 4))


@pytest.mark.parametrize("wrong", [{"p": 3}, {"rate": 0.0}, {"rate": 1.5}, {"weight": -1.0}])
def test_wrong_arguments_are_refused_when_it_is_built(wrong):
    with pytest.raises(ArgumentError):
        make("factor_transfer", teacher="t", **LAYER, **wrong)


def test_the_first_stage_learns_the_paraphraser_alone_and_the_second_leaves_it():
    recipe = make("factor_transfer", teacher=PLANTED.truth, rate=0.5, **LAYER, paraphraser_epochs=6, epochs=1)
    student = PLANTED.network()
    before = weights(student)
    run = PLANTED.learn(Recipe(next(recipe.stages())), student=student)
    assert same_weights(weights(student), before)
    paraphraser = paraphraser_of(run)
    assert paraphraser.encoder[-2].out_channels == 4
    assert run.history[-1].loss < 0.9 * PLANTED.truth.layer2(PLANTED.truth.layer1(PLANTED.x)).square().mean()
    whole = PLANTED.learn(recipe, student=student)
    assert same_weights(weights(paraphraser_of(whole)), weights(paraphraser))
    assert not same_weights(weights(student), before)


def test_a_student_with_the_teacher_s_factors_learns_from_fewer_labels():
    layer = {"at": "layer1", "student_at": "layer1"}
    recipe = make("factor_transfer", teacher=PLANTED.truth, **layer, weight=5.0, paraphraser_epochs=40)
    assert PLANTED.accuracy(PLANTED.learn(recipe).student) > PLANTED.accuracy_alone
