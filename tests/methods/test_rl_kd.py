"""RL-KD: its limits are plain distillation, its gradient is that of the expected reward, and bad teachers go."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs, Progress
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.losses import LossContext
from limbeck.methods import make
from limbeck.methods.teachers.rl_kd import policy_gradient
from methods.planted_teachers import PlantedTeachers

DRAW = torch.Generator().manual_seed(0)
Z, A, B = (torch.randn(6, 3, generator=DRAW, dtype=torch.float64) for _ in range(3))
BATCH = Batch(torch.zeros(6, 1), id=torch.arange(6), labels=torch.tensor([0, 1, 2, 0, -100, 1]))
COUNTED = BATCH.labels >= 0
TEACHER = Outputs({"a.logits": A, "b.logits": B})


def fitted(**options):
    recipe = make("rl_kd", teacher={"a": nn.Linear(1, 3), "b": nn.Linear(1, 3)}, **options)
    student = Outputs(logits=Z)
    context = LossContext(student, TEACHER, BATCH, model=nn.Linear(1, 3), forward=lambda batch: student)
    return next(recipe.stages()).objective.setup(context)


def test_all_teachers_selected_is_the_mean_of_their_losses():
    loss = fitted(temperature=2.0, weight=0.7)
    term = loss.term(Outputs(logits=Z), TEACHER, BATCH, Progress(0, 100))  # in the warm-up
    taught = (kl_divergence(Z, A, temperature=2.0) + kl_divergence(Z, B, temperature=2.0)) / 2
    expected = (0.7 * taught + 0.3 * cross_entropy(Z, labels=BATCH.labels))[COUNTED].sum()
    torch.testing.assert_close(term.total, expected)
    assert term.count == loss.count(BATCH) == 5


def test_one_teacher_with_probability_1_is_plain_distillation_and_none_is_the_labels():
    loss = fitted(temperature=2.0, weight=0.7, warmup=0.0)
    loss.policy.bias.copy_(torch.tensor([50.0, -50.0]))
    term = loss.term(Outputs(logits=Z), TEACHER, BATCH, Progress(3, 10))
    labels = 0.3 * cross_entropy(Z, labels=BATCH.labels)[COUNTED].sum()
    torch.testing.assert_close(term.total, 0.7 * kl_divergence(Z, A, temperature=2.0)[COUNTED].sum() + labels)
    loss.policy.bias.fill_(-50.0)
    torch.testing.assert_close(loss.term(Outputs(logits=Z), TEACHER, BATCH, Progress(3, 10)).total, labels)


def test_the_gradient_is_that_of_the_expected_reward_of_a_bandit_with_two_teachers():
    features = torch.randn(2, 1, 3, generator=DRAW, dtype=torch.float64)
    weight = torch.randn(2, 3, generator=DRAW, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, generator=DRAW, dtype=torch.float64, requires_grad=True)
    reward = {(0, 0): 0.3, (0, 1): -1.0, (1, 0): 2.0, (1, 1): 0.7}
    probability = ((features[:, 0] * weight).sum(-1) + bias).sigmoid()
    chances = {
        choice: torch.stack([p if a else 1 - p for a, p in zip(choice, probability, strict=True)]).prod()
        for choice in itertools.product((0, 1), repeat=2)
    }
    exact = torch.autograd.grad(sum(chances[choice] * reward[choice] for choice in chances), [weight, bias])
    estimate = [torch.zeros_like(part) for part in exact]
    for choice, chance in chances.items():
        chosen = torch.tensor(choice, dtype=torch.float64)[:, None]
        advantage = torch.tensor([reward[choice] - 0.5], dtype=torch.float64)  # a baseline changes nothing
        parts = policy_gradient(features, chosen, probability.detach()[:, None], advantage)
        for total, part in zip(estimate, parts, strict=True):
            total += chance.detach() * part
    for ours, expected in zip(estimate, exact, strict=True):
        torch.testing.assert_close(ours, expected)


def test_a_planted_bad_teacher_is_hardly_selected():
    planted = PlantedTeachers()
    recipe = make("rl_kd", teacher=planted.good_and_bad(), policy_lr=0.5)
    shares = planted.learn(recipe).stages[0].objective.policy.shares.by_name
    assert shares["bad"] < 0.2
    assert shares["good"] > 0.5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reward": "label"}, "Did you mean 'labels'"),
        ({"policy_lr": -1.0}, "policy_lr"),
        ({"warmup": 2.0}, "warmup"),
        ({"weight": 0.0}, "supervised"),
        ({"teacher": nn.Linear(2, 2)}, "two|2 teachers"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, words):
    with pytest.raises(LimbeckError, match=words):
        make("rl_kd", **{"teacher": [nn.Linear(2, 2), nn.Linear(2, 2)], **changes})


def test_teachers_of_other_classes_and_missing_ids_are_refused_before_training():
    planted, recipe = PlantedTeachers(train=40), make("rl_kd", teacher={"a": nn.Linear(8, 3), "b": nn.Linear(8, 4)})
    with pytest.raises(LimbeckError, match=r"a \[3\], b \[4\]"):
        planted.learn(recipe)


def test_a_loss_that_is_infinite_does_not_end_the_policy():
    loss = fitted(warmup=0.0)
    loss.policy.shares.to(torch.float64)
    logits = Z.clone()
    logits[0, BATCH.labels[0]] = -torch.inf
    loss._context = (loss._context[0], lambda batch: Outputs(logits=logits))
    for step in range(2):
        loss.after_step(Outputs(logits=Z), TEACHER, BATCH, Progress(step, 2))
        loss.end_step([BATCH], Progress(step, 2))
    assert bool(loss.policy.weight.isfinite().all())
    assert bool(loss.policy.bias.isfinite().all())
