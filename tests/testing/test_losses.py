"""Checks of objectives and heads: what is right passes, and each law catches what breaks it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs, Requirements
from limbeck.errors import LimbeckError
from limbeck.functional import Head, Projector, cross_entropy, kernel, kl_divergence, label_smoothing, squared_error
from limbeck.losses import Loss
from limbeck.methods import make
from limbeck.schedule import ramp
from limbeck.testing import LawError, check_head, check_objective


def breaks(sentence):
    return pytest.raises(LawError, match=rf"laws? of \w+ (is|are) broken:(?s:.*)({sentence})")


@kernel(per="pair")
def differences(student, teacher):
    return (student.unsqueeze(0) - student.unsqueeze(1)).square().sum(-1) * teacher.square().mean()


@pytest.mark.parametrize(
    "objective",
    [
        Loss(cross_entropy),
        0.1 * Loss(cross_entropy) + 0.9 * Loss(kl_divergence, temperature=4.0),
        ramp(0.5) * (Loss(label_smoothing) + Loss(cross_entropy)),
        Loss(squared_error, student="layer1", teacher="layer2", head=Projector()),
        Loss(differences) + Loss(kl_divergence, temperature=ramp(4.0, start=1.0)),
    ],
    ids=repr,
)
def test_right_objectives_pass(objective):
    check_objective(objective)


def test_the_objectives_of_every_method_pass():
    for name in ("hinton", "label_smoothing", "mutual", "mean_teacher"):
        given = {"teacher": nn.Linear(3, 5)} if name == "hinton" else {}
        for stage in make(name, **given).stages():
            check_objective(stage.objective)


def test_positions_pass_too():
    draw = torch.Generator().manual_seed(0)
    student, teacher = (Outputs(logits=torch.randn(6, 4, 5, generator=draw)) for _ in range(2))
    batch = Batch(torch.zeros(6, 4), torch.arange(6), labels=torch.randint(5, (6, 4), generator=draw))
    check_objective(Loss(cross_entropy) + Loss(kl_divergence), student=student, teacher=teacher, batch=batch)


class Hungry(Loss):
    @property
    def requires(self):
        return Requirements(frozenset({"logits"}))


class Miscounted(Loss):
    def count(self, batch):
        return super().count(batch) + (1 if batch.size == 12 else 0)


class Averaged(Loss):
    def term(self, *given):
        term = super().term(*given)
        return term._replace(total=term.total / max(term.count, 1))


class Unmasked(Loss):
    def term(self, student, teacher, batch, progress):
        return super().term(student, teacher, batch._replace(mask=None), progress)._replace(count=self.count(batch))


class Deaf(Loss):
    def term(self, *given):
        term = super().term(*given)
        return term._replace(total=term.total.detach())


class Infinite(Loss):
    def term(self, *given):
        term = super().term(*given)
        return term._replace(total=term.total / 0.0)


@pytest.mark.parametrize(
    ("objective", "sentence"),
    [
        (Hungry(cross_entropy), "it uses more than it declares"),
        (Miscounted(cross_entropy), "it announces the counts"),
        (Averaged(cross_entropy), "totals over two halves"),
        (Unmasked(kl_divergence), "masked examples count"),
        (Deaf(cross_entropy), "does not depend on the student"),
        (Infinite(cross_entropy), "cross_entropy is inf"),
    ],
    ids=["requires", "count", "split", "mask", "reach", "finite"],
)
def test_broken_objectives_are_caught(objective, sentence):
    with breaks(sentence):
        check_objective(objective)


def test_right_heads_pass():
    check_head(Projector, torch.randn(4, 8), torch.randn(4, 3))
    check_head(Projector, torch.randn(4, 2, 6, 6), torch.randn(4, 3, 4, 4))


class Scaler(Head):
    """A head of one number a feature, of which each test breaks one thing."""

    broken = ""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3)) if self.broken == "eager" else None

    def shape(self, student, teacher):
        if self.scale is None or self.broken == "again":
            self.scale = nn.Parameter(torch.randn(teacher.shape[-1]))
            self.idle = nn.Parameter(torch.ones(())) if self.broken == "idle" else None

    def forward(self, student):

        if self.scale is None:
            raise LimbeckError("no shape yet")
        return student * self.scale if self.broken != "wide" else torch.cat([student, student], -1) * self.scale[0]


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ("eager", "it can be called before shape"),
        ("again", "changes its parameters"),
        ("idle", "a gradient does not reach"),
        ("wide", r"it gives \(4, 6\), not \(4, 3\)"),
    ],
)
def test_broken_heads_are_caught(broken, sentence):
    check_head(Scaler, torch.randn(4, 3), torch.randn(4, 3))
    with breaks(sentence):
        check_head(type("Broken", (Scaler,), {"broken": broken}), torch.randn(4, 3), torch.randn(4, 3))
