"""A loss that remembers something begins its first step as it was made, and is refused where ranks would part."""

from __future__ import annotations

from collections import deque

import pytest
import torch
from torch import nn

from engine.stories import arrays, make_loader, network
from limbeck.batch import Requirements, Term
from limbeck.engine import distill
from limbeck.functional import kernel, kl_divergence
from limbeck.integrations import DistillationLoss
from limbeck.losses import Loss, LossTerm
from limbeck.recipe import Stage

STEPS = 5


class Remembering(nn.Module):
    """A head that counts its calls in every way there is, and the kernel that is its bound method."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bank", torch.zeros(40, 3))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("rebound", torch.zeros(()))
        self.number, self.queue, self.seen, self.last = 0, deque(maxlen=100), {"calls": []}, None
        self.tensor, self.draws = torch.zeros(2), torch.Generator().manual_seed(3)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        self.number += 1
        return logits

    def contrast(self, student, teacher, *, id):
        with torch.no_grad():
            self.bank[id] += 1
            self.steps += 1
            self.rebound = self.rebound + 1
            self.queue.append(self.number)
            self.seen["calls"].append(1)
            self.tensor += 1
            self.last = torch.rand(1, generator=self.draws)
        return (student - teacher - self.bank[id]).square().mean(-1)

    def counts(self) -> list[int]:
        counted = [self.steps, self.rebound, self.number, len(self.queue), len(self.seen["calls"]), self.tensor[0]]
        return [int(one) for one in counted]


def test_its_state_is_that_of_the_steps_alone():
    head = Remembering()
    loss = Loss(kernel(per="example")(head.contrast), head=head)
    run = distill(network(), Stage(loss, teacher=network(seed=1), steps=STEPS), make_loader()).finish()
    assert head.counts() == [0] * 6
    head = run.stages[0].objective.head
    assert head.counts() == [STEPS] * 6
    drawn = torch.Generator().manual_seed(3)
    assert torch.equal(head.last, [torch.rand(1, generator=drawn) for _ in range(STEPS)][-1])


def closure():
    steps, calls = 0, []

    @kernel(per="position")
    def counted(student, teacher):
        nonlocal steps
        steps += 1
        calls.append(1)
        return kl_divergence(student, teacher)

    return counted, lambda: (steps, len(calls))


def callable_object():
    class Counted:
        def __init__(self) -> None:
            self.steps = 0
            self.calls: list[int] = []

        def __call__(self, student, teacher):
            self.steps += 1
            self.calls.append(1)
            return kl_divergence(student, teacher)

    one = Counted()
    one.__name__ = "counted"
    return kernel(per="position")(one), lambda: (one.steps, len(one.calls))


@pytest.mark.parametrize("make", [closure, callable_object])
@pytest.mark.parametrize("way", ["run", "distillation"])
def test_a_kernel_with_a_memory(make, way):
    counted, count = make()
    if way == "run":
        distill(network(), Stage(Loss(counted), teacher=network(seed=1), steps=STEPS), make_loader()).finish()
        assert count() == (STEPS, STEPS)
    else:
        with DistillationLoss(network(), Loss(counted), network(seed=1), example=arrays(8).take(torch.arange(8))):
            assert count() == (0, 0)


class Own(LossTerm):
    """A leaf of a person's own, with a running mean."""

    name, per = "own", "example"

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.calls = 0

    @property
    def requires(self) -> Requirements:
        return Requirements(frozenset({"logits"}))

    def term(self, student, teacher, batch, progress):
        self.calls += 1
        self.mean.mul_(0.9).add_(student["logits"].detach().mean(0), alpha=0.1)
        return Term((student["logits"] - self.mean).square().mean(1).sum(), self.count(batch))

    def count(self, batch):
        return float(batch.size)

    def setup(self, context):
        return self


def test_a_leaf_with_a_running_mean():
    own, student = Own(), network()
    first = student(arrays(40).take(torch.arange(40)).inputs).detach()
    run = distill(student, Stage(own, steps=1), (arrays(40).inputs, arrays(40).labels), batch_size=40).finish()
    learned = run.stages[0].objective  # the run's own
    assert (own.calls, learned.calls) == (0, 1)
    torch.testing.assert_close(learned.mean, 0.1 * first.mean(0))


class Built(nn.Module):
    """A head that makes its layer when it is first called."""

    def __init__(self) -> None:
        super().__init__()
        self.ready = False

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        if not self.ready:
            self.ready, self.layer = True, nn.Linear(logits.shape[-1], 3)
        return self.layer(logits)


def test_a_head_that_builds_itself_stays_built():
    head = Built()
    run = distill(network(), Stage(Loss(kl_divergence, head=head), teacher=network(seed=1), steps=1), make_loader())
    run.finish()
    built = run.stages[0].objective.head
    before = built.layer.weight.clone()
    assert not head.ready  # a run trains heads of its own
    again = Stage(Loss(kl_divergence, head=built), teacher=network(seed=1), steps=3)
    learned = distill(network(), again, make_loader()).finish().stages[0].objective.head
    assert learned.ready
    assert not torch.equal(before, learned.layer.weight)
