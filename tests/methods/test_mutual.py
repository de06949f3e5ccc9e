"""Two peers learn from each other in the order of the paper."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from limbeck.data import ArrayDataset, ShuffledLoader
from limbeck.engine import distill
from limbeck.methods import make
from limbeck.models import build, reinitialize
from limbeck.recipe import Optimizer
from limbeck.testing.law import same_weights, weights
from methods.planted import Planted


def peers(planted):
    student = planted.student(1)
    return {"student": student, "peer": reinitialize(student, seed=2)}


@torch.no_grad()
def distance(planted, mine, other):
    """How far apart two models' predictions are: the mean sum of absolute differences."""
    p, q = (model.eval()(planted.test).softmax(-1) for model in (mine, other))
    return float((p - q).abs().sum(-1).mean())


def by_hand(models, batches, lr):
    """Algorithm 1 of the paper: the peer learns from the student as it is after its step."""
    optimizers = {name: torch.optim.SGD(model.parameters(), lr=lr) for name, model in models.items()}
    for batch in batches:
        for name, other in (("student", "peer"), ("peer", "student")):
            own = models[name](batch.inputs).log_softmax(-1)
            with torch.no_grad():
                p = models[other](batch.inputs).log_softmax(-1)
            loss = F.nll_loss(own, batch.labels) + F.kl_div(own, p, reduction="batchmean", log_target=True)
            optimizers[name].zero_grad()
            loss.backward()
            optimizers[name].step()


def test_it_is_the_paper_s_algorithm_step_by_step():
    planted = Planted()
    ours, theirs = peers(planted), peers(planted)
    loader = ShuffledLoader(ArrayDataset(planted.x, planted.labels), batch_size=40, seed=4)
    batches = [batch for _ in range(2) for batch in loader]
    optimizer = Optimizer("sgd", lr=0.1, decay="constant")
    distill(ours, make("mutual"), loader, optimizer=optimizer, epochs=2).finish()
    by_hand(theirs, batches, 0.1)
    for name in ours:
        for mine, hand in zip(ours[name].parameters(), theirs[name].parameters(), strict=True):
            torch.testing.assert_close(mine, hand, rtol=1e-5, atol=1e-6)


def test_peers_that_are_equal_part_because_the_second_sees_the_first_s_step():
    planted = Planted()
    models = {"student": planted.student(1), "peer": planted.student(1)}
    optimizer = Optimizer("sgd", lr=0.1)
    distill(models, make("mutual"), (planted.x, planted.labels), optimizer=optimizer, steps=1).finish()
    assert not same_weights(weights(models["student"]), weights(models["peer"]))
    apart = (models["student"].classifier.weight - models["peer"].classifier.weight).detach().abs().max()
    assert float(apart) < 1e-2


def test_at_weight_0_each_learns_alone():
    planted = Planted()
    mutual = planted.learn(make("mutual", weight=0.0), epochs=2)
    alone = planted.learn(make("supervised"), epochs=2)
    assert same_weights(weights(mutual.student), weights(alone.student))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.soak), pytest.param(2, marks=pytest.mark.soak)])
def test_both_learn_and_come_to_agree(seed):
    """The paper's claim: the student beats the student alone."""
    planted = Planted(seed=seed)
    alone, other = (planted.learn(make("supervised"), seed=s).student for s in (seed, seed + 50))
    run = planted.learn(make("mutual"), seed=seed)
    assert planted.nll(run.student) < planted.nll(alone)
    assert distance(planted, run.student, run.models["peer"]) < distance(planted, alone, other)
    assert planted.accuracy(run.models["peer"]) > 0.3


def test_the_peer_may_be_another_architecture():
    planted = Planted()
    other = build("mlp", inputs=10, classes=4, hidden=[8], seed=3)
    models = {"student": planted.student(), "peer": other}
    run = distill(models, make("mutual"), (planted.x, planted.labels), epochs=1).finish()
    assert run.models["peer"] is other
    assert run.student is models["student"]


def test_a_peer_is_made_with_other_weights():
    planted = Planted()
    run = planted.learn(make("mutual", weight=0.0), epochs=1)
    first, second = run.models["student"].layer1, run.models["peer"].layer1
    assert not torch.equal(first[1].weight, second[1].weight)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_peers_answer_in_training_mode(dropout):
    planted = Planted()
    flags = []
    models = {name: planted.student(seed, dropout=dropout) for seed, name in enumerate(("student", "peer"))}
    for model in models.values():
        handle = model.register_forward_hook(lambda module, *_: flags.append(module.training))
    distill(models, make("mutual"), (planted.x, planted.labels), steps=2).finish()
    handle.remove()
    assert flags
    assert all(flags)
