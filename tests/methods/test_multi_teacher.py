"""Weights of teachers: fixed, by confidence, learned, of a gate. Bad teachers lose theirs, experts keep a region."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs, Progress
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.losses import LossContext
from limbeck.methods import make
from limbeck.methods.teachers.multi_teacher import confidence_weights
from limbeck.teachers import Ensemble
from methods.planted_teachers import PlantedTeachers

DRAW = torch.Generator().manual_seed(0)
Z, A, B = (torch.randn(6, 3, generator=DRAW, dtype=torch.float64) for _ in range(3))
BATCH = Batch(torch.zeros(6, 1), labels=torch.tensor([0, 1, 2, 0, -100, 1]))
COUNTED = BATCH.labels >= 0
TEACHER = Outputs({"a.logits": A, "b.logits": B})


@pytest.fixture(scope="module")
def planted():
    return PlantedTeachers()


def fitted(**options):
    teacher = Ensemble(nn.Linear(1, 3), nn.Linear(1, 3), weights=[3.0, 1.0], member_names=["a", "b"])
    recipe = make("multi_teacher", teacher=teacher, **options)
    return next(recipe.stages()).objective.setup(LossContext(Outputs(logits=Z), TEACHER, BATCH))


@pytest.mark.parametrize("teachers", [2, 3, 5])
def test_confidence_is_the_formula_and_sums_to_1(teachers):
    losses = 3 * torch.rand(teachers, 4, generator=DRAW, dtype=torch.float64)
    weights = confidence_weights(losses)
    for i in range(4):
        exponentials = [math.exp(loss) for loss in losses[:, i].tolist()]
        expected = [(1 - e / sum(exponentials)) / (teachers - 1) for e in exponentials]
        torch.testing.assert_close(weights[:, i], torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(weights.sum(0), torch.ones(4, dtype=torch.float64))


def test_fixed_weights_are_those_of_the_ensemble():
    term = fitted(weights="fixed", temperature=2.0, weight=0.6).term(Outputs(logits=Z), TEACHER, BATCH, Progress())
    taught = 0.75 * kl_divergence(Z, A, temperature=2.0) + 0.25 * kl_divergence(Z, B, temperature=2.0)
    expected = (0.6 * taught + 0.4 * cross_entropy(Z, labels=BATCH.labels))[COUNTED].sum()
    torch.testing.assert_close(term.total, expected)


def test_the_gate_has_the_gradient_of_the_likelihood_alone_and_the_student_none_of_it():
    loss = fitted(weights="gate", temperature=2.0)
    z = Z.clone().requires_grad_()
    term = loss.term(Outputs(logits=z), TEACHER, BATCH, Progress())
    slope, gate = torch.autograd.grad(term.total, [z, loss.gate.bias])
    p = [logits[COUNTED].softmax(-1)[range(5), BATCH.labels[COUNTED]] for logits in (A, B)]
    posterior = torch.stack(p) / sum(p)  # equal weights at the beginning
    torch.testing.assert_close(gate, -(posterior - 0.5).sum(1))
    taught = (kl_divergence(z, A, temperature=2.0) + kl_divergence(z, B, temperature=2.0)) / 2
    alone = (0.5 * taught + 0.5 * cross_entropy(z, labels=BATCH.labels))[COUNTED].sum()
    torch.testing.assert_close(slope, torch.autograd.grad(alone, z)[0])


@pytest.mark.parametrize("weights", ["confidence", "learned", "gate"])
def test_a_planted_bad_teacher_has_a_weight_below_a_fifth(planted, weights):
    recipe = make("multi_teacher", teacher=planted.good_and_bad(), weights=weights)
    run = planted.learn(recipe, epochs=8)
    assert run.stages[0].objective.gate.shares.by_name["bad"] < 0.2


def test_a_gate_routes_regional_experts_and_its_student_is_better_than_with_equal_weights(planted):
    """The gate reads which side the teachers see, from a layer of one of them."""
    teachers = planted.regional()
    teachers["left"] = nn.Sequential(nn.Identity(), teachers["left"])
    gated = make("multi_teacher", teacher=teachers, weights="gate", embedding="left.0", weight=1.0, gate_lr=0.1)
    equal = make("multi_teacher", teacher=teachers, weights="fixed", weight=1.0)
    students = [planted.learn(recipe, epochs=15).student for recipe in (gated, equal)]
    ours, other = map(planted.accuracy, students)
    assert ours > other + 0.1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": "lerned"}, "Did you mean 'learned'"),
        ({"gate_lr": 0.0}, "gate_lr"),
        ({"embedding": "a.0"}, "embedding"),
        ({"weight": 0.0}, "supervised"),
        ({"teacher": [nn.Linear(2, 2)]}, "has 1"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, words):
    with pytest.raises(LimbeckError, match=words):
        make("multi_teacher", **{"teacher": [nn.Linear(2, 2), nn.Linear(2, 2)], **changes})
