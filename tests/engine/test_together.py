"""Stages joined by & alternate on one batch, each with its own optimizer."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from engine.stories import SGD, arrays, hint, hooks, make_loader, network, weights
from limbeck.batch import Progress
from limbeck.data import ShuffledLoader
from limbeck.engine import distill, open_stage
from limbeck.errors import LimbeckError, UnknownNameError
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.losses import Loss
from limbeck.recipe import Optimizer, Stage
from limbeck.teachers import MovingAverage, TeacherRef

PLAIN = Optimizer("sgd", lr=0.1, decay="constant")


def objective() -> Loss:
    return Loss(cross_entropy) + Loss(kl_divergence)


class Watched(nn.Module):
    """Counts its forward passes by mode and by whether they are recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(5)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(5, 3)
        self.calls = {"learns": 0, "answers": 0}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert self.training == self.drop.training == self.norm.training
        assert self.training == torch.is_grad_enabled()
        self.calls["learns" if self.training else "answers"] += 1
        return self.last(self.drop(self.norm(x)))


def test_the_second_stage_sees_what_the_first_has_just_learned():
    """Two steps by hand: one learns from two as it was; two learns from one as it is now."""
    models = {"one": network(seed=1).double(), "two": network(seed=2).double()}
    hand = copy.deepcopy(models)
    data = arrays(8, dtype=torch.float64)
    batch = data.take(torch.arange(8))
    for _ in range(2):
        for mine, peer in (("one", "two"), ("two", "one")):
            z, v = hand[mine](batch.inputs), hand[peer](batch.inputs).detach()
            kl = (torch.softmax(v, -1) * (torch.log_softmax(v, -1) - torch.log_softmax(z, -1))).sum(-1).mean()
            loss = torch.nn.functional.cross_entropy(z, batch.labels) + kl
            gradients = torch.autograd.grad(loss, list(hand[mine].parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(hand[mine].parameters(), gradients, strict=True):
                    parameter -= 0.1 * gradient
    both = Stage(objective(), trains="one", teacher="two", steps=2) & Stage(objective(), trains="two", teacher="one")
    distill(models, both, ShuffledLoader(data, batch_size=8, shuffle=False), optimizer=PLAIN).finish()
    for name, model in models.items():
        assert float((weights(model) - weights(hand[name])).abs().max()) < 1e-13


def test_a_peer_learns_in_train_mode_and_answers_in_eval_mode():
    models = {"one": Watched(), "two": Watched()}
    models["one"].eval()
    both = Stage(objective(), trains="one", teacher="two", steps=5) & Stage(objective(), trains="two", teacher="one")
    before = {name: weights(model.norm) for name, model in models.items()}
    distill(models, both, make_loader(30)).finish()
    for name, model in models.items():
        # One of each is the probe's.
        assert model.calls == {"learns": 6, "answers": 6}
        assert int(model.norm.num_batches_tracked) == 5
        assert not torch.equal(weights(model.norm), before[name])
    assert (models["one"].training, models["two"].training) == (False, True)
    assert hooks(models.values()) == 0


def test_a_peer_may_answer_in_train_mode_and_its_statistics_are_its_own():
    models = {"one": network(norm=True), "two": network(norm=True, seed=3)}
    one = Stage(objective(), trains="one", teacher=TeacherRef("two", mode="train"), steps=3)
    distill(models, one & Stage(Loss(cross_entropy), trains="two"), make_loader(30)).finish()
    assert int(models["two"][1].num_batches_tracked) == 3


def test_each_has_its_own_optimizer_and_terms():
    models = {"one": network(seed=1), "two": network(seed=1)}
    both = Stage(Loss(cross_entropy), trains="one", optimizer=PLAIN, epochs=1) & Stage(
        2.0 * Loss(cross_entropy), trains="two", optimizer=Optimizer("adam", lr=0.01)
    )
    report = distill(models, both, make_loader(30), log_every=1).finish().history[0]
    assert set(report.terms) == {"one/cross_entropy", "two/cross_entropy"}
    assert report.loss == pytest.approx(report.terms["one/cross_entropy"] + 2 * report.terms["two/cross_entropy"])
    assert report.stage == "one & two"
    assert not torch.equal(weights(models["one"]), weights(models["two"]))


def test_an_average_of_a_tapped_model_listens_to_no_one():
    """The second stage's teacher copies the first's student; no hook may come along in the copy."""
    average = MovingAverage(decay=0.5, of="one")
    first = Stage(hint(), trains="one", teacher=network(hidden=6, seed=7), steps=4, optimizer=SGD)
    second = Stage(Loss(kl_divergence), trains="two", teacher=average, optimizer=SGD)
    models = {"one": network(seed=1), "two": network(seed=2)}
    # As in a run: both are made before the first is open.
    looked_at = replace(first, objective=hint())
    one, two = (open_stage(stage, models, make_loader(30)) for stage in (looked_at, second))
    with one, two:
        one.step([one.batch], Progress())
        assert hooks([models["one"]]) > 0
        assert hooks([two.session.model]) == 0
    models = {"one": network(seed=1), "two": network(seed=2)}
    distill(models, first & second, make_loader(30)).finish()
    alone = {"one": network(seed=1)}
    distill(
        alone, Stage(hint(), trains="one", teacher=network(hidden=6, seed=7), steps=4, optimizer=SGD), make_loader(30)
    ).finish()
    assert torch.equal(weights(models["one"]), weights(alone["one"]))


def test_three_alternate():
    models = {name: network(seed=seed) for seed, name in enumerate("abc")}
    one, two, three = (Stage(objective(), trains=n, teacher=t) for n, t in (("a", "b"), ("b", "c"), ("c", "a")))
    run = distill(models, one & two & three, make_loader(30), epochs=1, log_every=1).finish()
    assert len(run.history) == 4
    assert len(run.history[0].terms) == 6


def test_an_unknown_peer_is_reported_before_the_first_step():
    models = {"one": network(seed=1), "two": network(seed=2)}
    before = weights(*models.values())
    both = Stage(objective(), trains="one", teacher="two", epochs=1) & Stage(objective(), trains="two", teacher="on")
    with pytest.raises(UnknownNameError, match=r"'on'.*Did you mean 'one'"):
        distill(models, both, make_loader()).finish()
    assert torch.equal(weights(*models.values()), before)
    assert hooks(models.values()) == 0


def test_a_wrong_address_in_the_second_leaves_nothing_in_the_first():
    models = {"one": network(seed=1), "two": network(seed=2)}
    flags = [module.training for model in models.values() for module in model.modules()]
    wrong = Stage(Loss(kl_divergence, student="9"), trains="two", teacher="one")
    with pytest.raises(LimbeckError, match=r"No output at '9'"):
        distill(models, Stage(hint(), trains="one", teacher=network(seed=7), epochs=1) & wrong, make_loader()).finish()
    assert hooks(models.values()) == 0
    assert [module.training for model in models.values() for module in model.modules()] == flags


class Passing(nn.Module):
    """A model whose answer passes through another that learns in the same group."""

    def __init__(self, other: nn.Module) -> None:
        super().__init__()
        self.own = nn.Linear(5, 5)
        self._other = (other,)  # in a tuple, so that it is no part of this model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._other[0](self.own(x))


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_graph_through_another_student_leaves_no_gradient_in_its_step(order, accumulate):
    """The student does not learn from the other, so it moves as it does alone, whatever passes through it."""
    found = []
    for together in (False, True):
        student = network(seed=1)
        passing = Passing(student)
        learns = Stage(Loss(cross_entropy), trains="student", steps=4, optimizer=PLAIN)
        passes = Stage(-1.0 * Loss(cross_entropy), trains="passing", steps=4, optimizer=PLAIN)
        group = learns if not together else learns & passes if order == "after" else passes & learns
        models = {"student": student, "passing": passing}
        run = distill(models, group, make_loader(), accumulate=accumulate)
        for _ in run:
            pass
        found.append(weights(student))
        assert all(p.grad is None for p in passing.parameters()) or not together
    assert torch.equal(*found)
