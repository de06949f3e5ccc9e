"""Early-stopped distillation: the teacher's term ends, and the labels go on."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs, Progress
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional import cross_entropy
from limbeck.losses import weighted_loss
from limbeck.methods import make
from limbeck.testing.law import same_weights, weights
from methods.planted import Planted


def gradient(name, step, steps=10, **settings):
    (stage,) = make(name, teacher=nn.Identity(), temperature=2.0, weight=0.7, **settings).stages()
    draw = torch.Generator().manual_seed(0)
    z, v = (torch.randn(6, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    z = z.requires_grad_()
    batch = Batch(z.detach(), labels=torch.arange(6) % 4)
    progress = Progress(step, steps)
    loss = 0.0
    for leaf, weigh in stage.objective.leaves():
        term = leaf.term(Outputs(logits=z), Outputs(logits=v), batch, progress)
        loss = loss + weigh(progress) * term.total / term.count
    return torch.autograd.grad(loss, z)[0], z.detach(), batch


@pytest.mark.parametrize("step", [0, 4, 5, 9])
def test_it_is_distillation_before_the_stop_and_the_labels_alone_after_it(step):
    slope, z, batch = gradient("eskd", step, stop=0.5)
    expected = gradient("hinton", step)[0]
    if step >= 5:
        z = z.requires_grad_()
        (expected,) = torch.autograd.grad(cross_entropy(z, labels=batch.labels).mean(), z)
    torch.testing.assert_close(slope, expected)


def test_with_stop_1_it_is_hinton_to_the_bit():
    planted = Planted()
    runs = [
        planted.learn(make(name, teacher=planted.truth, **settings), epochs=2).student
        for name, settings in (("eskd", {"stop": 1.0}), ("hinton", {}))
    ]
    assert same_weights(*map(weights, runs))


def test_a_stop_after_the_end_is_refused():
    for stop in (0.0, 1.5, -0.1):
        with pytest.raises(ArgumentError, match=str(stop)) as error:
            make("eskd", teacher=nn.Linear(4, 3), stop=stop)
        assert error.value.argument == "stop"
    with pytest.raises(LimbeckError, match="weight"):
        make("eskd", teacher=nn.Linear(4, 3), weight=1.5)


def test_it_passes_the_student_alone():
    planted = Planted()
    alone = planted.accuracy(planted.alone(epochs=30))
    ours = planted.learn(make("eskd", teacher=planted.truth, stop=0.7, temperature=1.0), epochs=30).student
    assert planted.accuracy(ours) > alone + 0.02


def test_the_objective_is_named_in_full():
    (stage,) = make("eskd", teacher=nn.Linear(4, 3), stop=0.25).stages()
    terms = stage.objective(Outputs(logits=torch.zeros(2, 3)), Outputs(logits=torch.zeros(2, 3)),
                            Batch(torch.zeros(2, 4), labels=torch.zeros(2).long()), Progress(0, 8))  # fmt: skip
    assert weighted_loss(terms, stage.objective.counts(Batch(torch.zeros(2, 4), labels=torch.zeros(2).long()))) > 0
    assert "until(0.25, 0.9, 0.0)" in repr(stage.objective)


@pytest.mark.parametrize(
    ("name", "settings", "share"), [("eskd", {"stop": 0.5}, 0.5), ("eskd", {"stop": 1.0}, 1.0),
                                    ("continuation_kd", {"labels_until": 0.5}, 0.5)],
)  # fmt: skip
def test_the_teacher_is_asked_only_while_it_has_a_weight(name, settings, share):
    planted, asked = Planted(), []
    truth = copy.deepcopy(planted.truth)
    truth.register_forward_hook(lambda module, given, output: asked.append(len(output)))
    run = planted.learn(make(name, teacher=truth, **settings), epochs=4)
    steps = run.history[-1].steps
    assert len(asked) - 1 == pytest.approx(share * steps, abs=1), "one more call before the first step"
    assert steps == 12
