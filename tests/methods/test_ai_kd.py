"""AI-KD: its limits are PS-KD and the labels alone, and its critic is a Wasserstein critic with a penalty."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs, Progress
from limbeck.errors import LimbeckError
from limbeck.losses import LossContext
from limbeck.methods import make
from limbeck.methods.logits.ai_kd import Critic, PreviousPredictions
from limbeck.random_seeds import counter_uniform
from limbeck.testing.law import same_weights, weights
from methods.planted import Planted
from methods.row_math import log_softmax, softmax, to_rows

DRAW = torch.Generator().manual_seed(0)
Z, V, NEXT = (2 * torch.randn(4, 3, generator=DRAW, dtype=torch.float64) for _ in range(3))
IDS = torch.tensor([30, 10, 20, 40])
BATCH = Batch(torch.zeros(4, 1), labels=torch.tensor([0, 1, 2, -100]), id=IDS)
STUDENT, TEACHER = Outputs(logits=Z), Outputs(logits=V)


@pytest.fixture(scope="module")
def planted():
    return Planted()


def context(batch=BATCH):
    return LossContext(STUDENT, TEACHER, batch, ids=IDS.sort().values)


def brute_force_previous(logits, previous, labels, share):
    total = 0.0
    for z, old, y in zip(to_rows(logits), to_rows(previous), labels.tolist(), strict=True):
        if y != -100:
            log_q = log_softmax(z)
            soft = -sum(p * q for p, q in zip(softmax(old), log_q, strict=True))
            total += -(1 - share) * log_q[y] + share * soft
    return total


def test_labels_are_softened_by_the_predictions_of_the_last_visit():
    loss = PreviousPredictions(0.8).setup(context())
    first = loss.term(STUDENT, TEACHER, BATCH, Progress(5, 11))
    assert first.total.item() == pytest.approx(brute_force_previous(Z, Z, BATCH.labels, 0.0))  # nothing is known yet
    loss.after_step(STUDENT, TEACHER, BATCH, Progress(5, 11))
    order = torch.tensor([2, 0, 3, 1])  # another order of the examples in the next epoch
    again = Batch(torch.zeros(4, 1), labels=BATCH.labels[order], id=IDS[order])
    term = loss.term(Outputs(logits=NEXT), TEACHER, again, Progress(5, 11))
    assert term.count == 3
    assert term.total.item() == pytest.approx(brute_force_previous(NEXT, Z[order], again.labels, 0.4))


def test_the_critic_is_trained_by_the_wasserstein_loss_with_a_penalty():
    torch.manual_seed(0)
    critic = Critic(weight=0.5, penalty=10.0, hidden=4).setup(context())
    values = critic.critic_values(Z, V, IDS, step=3)
    share = counter_uniform(IDS, torch.full_like(IDS, 3), seed=int(critic.seed), draws=1, stream="critic").double()
    for i in range(4):
        point = (share[i] * Z[i] + (1 - share[i]) * V[i]).requires_grad_()
        slope = torch.autograd.functional.jacobian(critic.network, point)
        expected = critic.network(Z[i]) - critic.network(V[i]) + 10 * (slope.norm() - 1) ** 2
        torch.testing.assert_close(values[i], expected.squeeze())
    equal = Critic(weight=0.5, penalty=0.0, hidden=4).setup(context()).critic_values(Z, Z, IDS)
    assert torch.equal(equal, torch.zeros(4, dtype=torch.float64))


def test_each_side_has_only_its_own_gradient():
    torch.manual_seed(0)
    critic = Critic(weight=0.5, penalty=10.0, hidden=4).setup(context())
    z = Z.clone().requires_grad_()
    term = critic.term(Outputs(logits=z), TEACHER, BATCH, Progress())
    slope, *by_critic = torch.autograd.grad(term.total, [z, *critic.parameters()])
    torch.testing.assert_close(slope, torch.autograd.grad(-0.5 * critic.network(z).sum(), z)[0])
    alone = torch.autograd.grad(critic.critic_values(Z, V, IDS).sum(), list(critic.parameters()))
    for ours, expected in zip(by_critic, alone, strict=True):
        torch.testing.assert_close(ours, expected)


def test_a_critic_tells_two_sets_of_logits_apart_and_pulls_the_student_over():
    torch.manual_seed(0)
    far = Outputs(logits=V + 3.0)
    critic = Critic(weight=1.0, penalty=1.0, hidden=8).setup(context())
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        critic.critic_values(Z, far["logits"], IDS).sum().backward()
        optimizer.step()
    assert critic.network(far["logits"]).mean() > critic.network(Z).mean()
    z = Z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(critic.student_values(z).sum(), z)
    assert ((-slope) * (far["logits"] - Z)).sum() > 0  # a step of the student leads towards the teacher


def test_without_all_of_it_the_labels_are_left(planted):
    bare = make("ai_kd", teacher=planted.truth, weight=0.0, previous_share=0.0, adversarial_weight=0.0)
    ours, alone = (planted.learn(recipe, epochs=3).student for recipe in (bare, make("supervised")))
    assert same_weights(weights(ours), weights(alone))


def test_it_helps_beside_the_student_alone(planted):
    alone = planted.accuracy(planted.alone(epochs=30))
    assert planted.accuracy(planted.learn(make("ai_kd", teacher=planted.truth), epochs=30).student) > alone + 0.03


@pytest.mark.parametrize("wrong", [{"previous_share": 1.5}, {"penalty": -1.0}, {"critic_width": 0}])
def test_a_value_out_of_range_is_refused(wrong):
    with pytest.raises(LimbeckError, match=next(iter(wrong))):
        make("ai_kd", teacher=nn.Linear(2, 3), **wrong)


def test_a_class_that_does_not_exist_has_no_part_in_the_critic():
    torch.manual_seed(0)
    critic = Critic(weight=0.5, penalty=10.0, hidden=4).setup(context())
    sides = [rows.clone() for rows in (Z, V)]
    for rows in sides:
        rows[:, -1] = -torch.inf
    z = sides[0].requires_grad_()
    term = critic.term(Outputs(logits=z), Outputs(logits=sides[1]), BATCH, Progress())
    assert all(slope.isfinite().all() for slope in torch.autograd.grad(term.total, [z, *critic.parameters()]))
