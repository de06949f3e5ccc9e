"""Does each check pass what is right, and catch what breaks a law?"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs, Requirements
from limbeck.errors import MissingOutputError
from limbeck.functional import Projector, cross_entropy, kernel, kl_divergence, label_smoothing, squared_error
from limbeck.losses import Loss
from limbeck.methods import make
from limbeck.schedule import ramp
from limbeck.teachers import (
    Ensemble,
    ModelTeacher,
    MovingAverage,
    SklearnTeacher,
    Teacher,
    TeacherCapabilities,
    TeacherRef,
    TeacherSession,
)
from limbeck.testing import LawError, check_objective, check_teacher


def breaks(sentence):
    return pytest.raises(LawError, match=rf"laws? of \w+ (is|are) broken:(?s:.*)({sentence})")


# --- objectives


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


# --- teachers

BATCH = Batch(torch.randn(6, 2, generator=torch.Generator().manual_seed(0)))


def fitted():
    from sklearn.tree import DecisionTreeClassifier

    return DecisionTreeClassifier(max_depth=2).fit(torch.randn(30, 2).numpy(), [0, 1, 2] * 10)


@pytest.mark.parametrize(
    "teacher",
    [
        lambda: ModelTeacher(nn.Linear(2, 3)),
        lambda: ModelTeacher(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout()), mode="train"),
        lambda: ModelTeacher(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout())),
        lambda: Ensemble(nn.Linear(2, 3), nn.Linear(2, 3)),
        lambda: SklearnTeacher(fitted()),
        lambda: TeacherRef("student"),
        lambda: MovingAverage(decay=0.5),
        lambda: Ensemble(MovingAverage(decay=0.5), nn.Linear(2, 3)),
    ],
)
def test_right_teachers_pass(teacher):
    check_teacher(teacher(), BATCH, models={"student": nn.Linear(2, 3)})


def test_a_teacher_with_an_inside_passes():
    teacher = ModelTeacher(nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 3)))
    check_teacher(teacher, BATCH, requires=frozenset({"logits", "0", "1:in"}))


class Own(Teacher):
    """A right teacher, of which each test breaks one thing."""

    def __init__(self, **broken):
        self.model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).eval()
        self.broken = broken
        self.asked = itertools.count()

    def open(self, context):
        if context.requires != {"logits"} and "accepts" not in self.broken:
            raise MissingOutputError("only logits")
        if "flags" in self.broken:
            self.model.train()
        return OwnSession(self, context)

    def logits(self, inputs):
        if "rows" in self.broken:
            inputs = inputs[:1]
        if "mixed" in self.broken:
            inputs = inputs - inputs.mean(0)
        with torch.set_grad_enabled("gradient" in self.broken):
            found = self.model(inputs)
        if "moves" in self.broken:
            self.model[1].running_mean.add_(1.0)
        if "nan" in self.broken:
            return found * float("nan")
        return found + next(self.asked) if "restless" in self.broken else found

    @property
    def fingerprint(self):
        return "same" if "mark" not in self.broken else str(next(self.asked))

    @property
    def capabilities(self):
        return TeacherCapabilities(changes="forgets" in self.broken, gradients="declares" in self.broken)

    def describe(self):
        return {"model": self.model} if "plain" in self.broken else {"teacher": "Own"}


class OwnSession(TeacherSession):
    def __init__(self, teacher, context):
        self.teacher, self.context, self.steps = teacher, context, 0

    def __call__(self, batch):
        logits = self.teacher.logits(self.context.preprocess(batch)) + self.steps
        return Outputs({self.teacher.broken.get("address", "logits"): logits})

    def submit(self, batch):
        future = super().submit(batch)
        if "future" in self.teacher.broken:
            future.result()["logits"] += 1
        return future

    def after_step(self):
        self.steps += 1

    def state_dict(self):
        return {"a": 1} if {"still", "forgets"} & {*self.teacher.broken} else {}


def test_an_own_teacher_passes():
    check_teacher(Own(), BATCH)
    check_teacher(Own(gradient=1, declares=1), BATCH)


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ({"accepts": 1}, "accepts an address that it does not have"),
        ({"address": "logit"}, "does not return 'logits'"),
        ({"rows": 1}, "1 rows for 6 examples"),
        ({"gradient": 1}, "requires a gradient"),
        ({"nan": 1}, "contains NaN"),
        ({"restless": 1}, "differs in a second call"),
        ({"mixed": 1}, "depends on the other examples"),
        ({"flags": 1}, "gradient|other examples|hooks, flags or keys|second call"),
        ({"moves": 1}, "weights or buffers|second call"),
        ({"mark": 1}, "fingerprint changes"),
        ({"still": 1}, "declares that it does not change"),
        ({"plain": 1}, "not plain JSON"),
        ({"future": 1}, r"differs between submit\(\) and a call"),
        ({"forgets": 1}, "does not restore its outputs"),
    ],
    ids=str,
)
def test_broken_teachers_are_caught(broken, sentence):
    with breaks(sentence):
        check_teacher(Own(**broken), BATCH)


def test_all_broken_laws_of_a_teacher_are_listed():
    with pytest.raises(LawError) as error:
        check_teacher(Own(accepts=1, nan=1, still=1), BATCH)
    assert len(error.value.broken) >= 3


def test_a_moving_average_passes():
    check_teacher(MovingAverage(decay=0.5), BATCH, models={"student": nn.Linear(2, 3)})


# --- sources
