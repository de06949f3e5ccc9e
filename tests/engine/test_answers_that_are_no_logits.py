"""Answers that losses would take for logits are refused before the first step, with what to type instead."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.engine import distill
from limbeck.errors import LimbeckError, LimbeckWarning
from limbeck.functional import (
    binary_kl_divergence,
    cross_entropy,
    jensen_shannon,
    kl_divergence,
    label_smoothing,
    logit_squared_error,
    probability_squared_error,
    squared_error,
)
from limbeck.integrations import DistillationLoss
from limbeck.losses import Loss
from limbeck.methods import make
from limbeck.recipe import Stage
from limbeck.teachers import Ensemble, ModelTeacher

X, Y = torch.randn(32, 8), torch.arange(32) % 4
SOFT = 0.5 * Loss(cross_entropy) + 0.5 * Loss(kl_divergence)


def plain(classes: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, classes))


class Several(nn.Module):
    """A network that shows several things."""

    def __init__(self, kind: str, width: int = 32) -> None:
        super().__init__()
        self.kind = kind
        self.body, self.fc, self.aux = (
            nn.Sequential(nn.Linear(8, width), nn.ReLU()),
            nn.Linear(width, 4),
            nn.Linear(8, 4),
        )

    def forward(self, x):
        features = self.body(x)
        logits = self.fc(features)
        return {
            "tuple": (features, logits),
            "list": [features, logits],
            "three": (features, logits, self.aux(x)),
            "logits first": (logits, features),
            "auxiliary": (logits, self.aux(x)),
            "probabilities beside": (logits, logits.softmax(-1)),
            "and a loss": (logits, logits.sum()),
        }[self.kind]


def learn(student, teacher, objective=SOFT, data=(X, Y), **how):
    stage = Stage(objective, teacher=teacher, steps=2)
    return distill(student, stage, data, batch_size=16, accelerator="cpu", **how).finish()


@pytest.mark.parametrize("kind", ["tuple", "list", "three"])
@pytest.mark.parametrize("width", [4, 32])
@pytest.mark.parametrize("side", ["student", "teacher", "frozen teacher", "both"])
def test_features_that_come_first_are_refused(kind, width, side):
    student = Several(kind, width) if side in ("student", "both") else plain()
    teacher = plain() if side == "student" else Several(kind, width).requires_grad_(side != "frozen teacher")
    with pytest.raises(
        LimbeckError, match=r"first is not the logits: the one at 1 .*adaptor=lambda output: output\[1\]"
    ):
        learn(student, teacher)


@pytest.mark.parametrize("kind", ["logits first", "auxiliary", "probabilities beside", "and a loss"])
def test_logits_that_come_first_are_taken(kind):
    student = Several(kind)
    before = student.fc.weight.clone()
    learn(student, Several(kind))
    assert not torch.equal(student.fc.weight, before)


def test_an_adaptor_names_which():
    student = Several("tuple")
    before = student.fc.weight.clone()
    learn(student, ModelTeacher(Several("tuple"), adaptor=lambda out: out[1]), adaptor=lambda out: out[1])
    assert not torch.equal(student.fc.weight, before)


PROBABLE = nn.Softmax(-1)


@pytest.mark.parametrize("function", [kl_divergence, jensen_shannon, logit_squared_error, probability_squared_error])
def test_a_teacher_of_probabilities_is_refused(function):
    teacher = nn.Sequential(plain(), PROBABLE)
    for one in (teacher, ModelTeacher(teacher)):
        with pytest.raises(LimbeckError, match=r"teacher of 'student' answers with probabilities.*adaptor="):
            learn(plain(), one, Loss(function))
    learn(plain(), ModelTeacher(teacher, adaptor=lambda output: output.log()), Loss(function))
    with pytest.raises(LimbeckError, match="probabilities"):
        DistillationLoss(plain(), Loss(function), teacher, example=Batch(X))


def test_a_member_of_probabilities_is_refused():
    with pytest.raises(LimbeckError, match=r"'member-1' .*probabilities.*adaptor="):
        learn(plain(), Ensemble(plain(), nn.Sequential(plain(), PROBABLE)))


@pytest.mark.parametrize("function", [cross_entropy, label_smoothing])
def test_a_student_of_probabilities_is_refused(function):
    with pytest.raises(LimbeckError, match="The model 'student' answers with probabilities"):
        learn(nn.Sequential(plain(), PROBABLE), None, Loss(function))


def test_probabilities_are_no_fault_of_a_loss_that_wants_them():
    learn(nn.Sequential(plain(), PROBABLE), nn.Sequential(plain(), PROBABLE), Loss(squared_error))


class ByMode(nn.Module):
    """A network that answers otherwise when it is judged."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.inner = kind, plain()

    def forward(self, x):
        logits = self.inner(x)
        if self.training or self.kind == "same":
            return logits
        return logits.softmax(-1) if self.kind == "softmax" else logits[:, :3]


def test_probabilities_in_eval_mode_alone_are_refused():
    with pytest.raises(LimbeckError, match="logits in train mode and with probabilities in eval mode"):
        learn(ByMode("softmax"), plain())
    with pytest.raises(LimbeckError, match="teacher of 'student' answers with probabilities"):
        learn(plain(), ByMode("softmax"))


def test_another_shape_in_eval_mode_is_reported():
    with pytest.warns(LimbeckWarning, match=r"shape \(16, 4\) in train mode and \(16, 3\) in eval mode"):
        learn(ByMode("fewer"), plain())
    learn(ByMode("same"), plain())


@pytest.mark.parametrize("function", [kl_divergence, jensen_shannon, probability_squared_error])
def test_one_logit_is_refused_where_a_softmax_is_taken(function):
    with pytest.raises(LimbeckError, match=r"one logit .*binary_kl_divergence"):
        learn(plain(1), plain(1), Loss(function), X)


@pytest.mark.parametrize("labels", [Y % 2, Y * 0])
def test_one_logit_and_labels(labels):
    with pytest.raises(LimbeckError, match=r"one logit .*binary_cross_entropy"):
        learn(plain(1), plain(1), SOFT, (X, labels))


def test_one_channel_of_maps():
    recipe = make("hinton", teacher=nn.Conv2d(3, 1, 1), labels=False, classes=1)
    with pytest.raises(LimbeckError, match="one logit"):
        distill(nn.Conv2d(3, 1, 1), recipe, torch.rand(8, 3, 4, 4), epochs=1, accelerator="cpu").finish()


def test_one_logit_that_can_learn():
    learn(plain(1), plain(1), Loss(binary_kl_divergence), X)
    learn(plain(1), plain(1), Loss(squared_error), X)
    learn(plain(1), plain(1), Loss(logit_squared_error, centered=False), X)
