"""Knowledge selection: its limits are labels and soft targets, its actor finds the best of a known critic."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs, Progress
from limbeck.errors import LimbeckError
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.losses import LossContext
from limbeck.methods import make
from limbeck.methods.online.weighted_mutual import is_held_out
from limbeck.methods.teachers.knowledge_selector import KnowledgeSelector

DRAW = torch.Generator().manual_seed(0)
STUDENT = Outputs(logits=torch.randn(20, 3, generator=DRAW), one=torch.randn(20, 4, generator=DRAW),
                  two=torch.randn(20, 5, generator=DRAW))  # fmt: skip
TEACHER = Outputs(logits=torch.randn(20, 3, generator=DRAW), a=torch.randn(20, 6, generator=DRAW),
                  b=torch.randn(20, 7, generator=DRAW))  # fmt: skip
BATCH = Batch(torch.zeros(20, 1), id=torch.arange(20), labels=torch.arange(20) % 3)
LEARNED = ~is_held_out(BATCH.id, 0.3)


def fitted(**options):
    options = {"at": ["a", "b"], "student_at": ["one", "two"], "held_out": 0.3, "episodes": 0, **options}
    recipe = make("knowledge_selection", teacher=nn.Linear(1, 3), **options)
    torch.manual_seed(0)
    return next(recipe.stages()).objective.setup(LossContext(STUDENT, TEACHER, BATCH))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ((1.0, 0.0, 0.0, 0.0), lambda z, v, y: cross_entropy(z, labels=y)),
        ((0.0, 1.0, 0.0, 0.0), lambda z, v, y: kl_divergence(z, v, temperature=2.0)),
    ],
)
def test_one_kind_alone_is_fine_tuning_or_plain_distillation(weights, expected):
    loss = fitted(temperature=2.0)
    loss.selector.action.copy_(torch.tensor(weights))
    term = loss.term(STUDENT, TEACHER, BATCH, Progress())
    value = expected(STUDENT["logits"], TEACHER["logits"], BATCH.labels)[LEARNED].sum()
    torch.testing.assert_close(term.total, value)
    assert term.count == loss.count(BATCH) == int(LEARNED.sum())


def test_features_and_relations_are_mean_squared_errors():
    loss = fitted()
    ours = [connector(STUDENT[name][LEARNED]) for connector, name in zip(loss.connectors, ("one", "two"), strict=True)]
    theirs = [TEACHER[name][LEARNED] for name in ("a", "b")]
    loss.selector.action.copy_(torch.tensor([0.0, 0.0, 1.0, 0.0]))
    features = loss.term(STUDENT, TEACHER, BATCH, Progress()).total
    torch.testing.assert_close(features, (ours[1] - theirs[1]).square().mean(1).sum())
    loss.selector.action.copy_(torch.tensor([0.0, 0.0, 0.0, 1.0]))
    flows = [low[:, :, None] * high[:, None, :] for low, high in (ours, theirs)]  # [examples, 6, 7]
    relations = loss.term(STUDENT, TEACHER, BATCH, Progress()).total
    torch.testing.assert_close(relations, (flows[0] - flows[1]).square().mean((1, 2)).sum())


def test_without_a_second_pair_there_are_no_relations():
    assert fitted(at="a", student_at="one").selector.kinds == ("labels", "soft_targets", "features")


def test_the_actor_goes_to_the_best_weights_of_a_known_reward():
    torch.manual_seed(0)
    selector = KnowledgeSelector(["x", "y"], gamma=1.0)
    selector.shape(3, 3, torch.device("cpu"))
    best = torch.tensor([0.8, 0.2])
    for _ in range(60):
        action = torch.rand(2, generator=DRAW)
        reward = -float((action - best).square().sum())
        selector.remember(action, reward, selector.state, action, last=True)
    for _ in range(5):
        selector.learn(0.01)
    found = selector.act(selector.state[None])[0]
    torch.testing.assert_close(found, best, atol=0.2, rtol=0)
    assert not any(parameter.requires_grad for parameter in selector.parameters())


def test_a_phase_ends_with_a_reward_and_new_weights():
    loss = fitted(phases=4, noise=0.5)
    seen = []
    for step in range(8):
        loss.after_step(STUDENT, TEACHER, BATCH, Progress(step, 8))
        loss.end_step([BATCH], Progress(step, 8))
        seen.append((int(loss.selector.seen), loss.selector.action.clone()))
    assert [count for count, _ in seen] == [0, 0, 0, 1, 1, 2, 2, 3]  # the first phase has none before it
    assert torch.equal(seen[1][1], seen[2][1])
    assert not torch.equal(seen[2][1], seen[3][1])
    assert all(0 <= float(weight) <= 1 for _, action in seen for weight in action)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"held_out": 0.0}, "held_out"),
        ({"phases": 1}, "phases"),
        ({"selector_lr": 0.0}, "selector_lr"),
        ({"student_at": ["one"]}, "student_at 1"),
        ({"noise": 2.0}, "noise"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, words):
    with pytest.raises(LimbeckError, match=words):
        fitted(**changes)


def test_the_first_reward_says_nothing_of_the_weights():
    torch.manual_seed(0)
    selector = KnowledgeSelector(["x", "y"], gamma=0.9)
    selector.shape(3, 3, torch.device("cpu"))
    action = torch.full((2,), 0.5)
    selector.remember(action, 0.1, selector.state, action, last=True)
    selector.learn(0.005)
    value = selector.judge(selector.state[None], action[None])
    assert 0.0 < float(value) < 2.0  # gamma times a reward of size 1
    assert torch.equal(selector.act(selector.state[None])[0], action)
