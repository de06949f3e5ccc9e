"""Checks of teachers: what is right passes, and each law catches what breaks it."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from limbeck.batch import Batch, Outputs
from limbeck.errors import MissingOutputError
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
from limbeck.testing import LawError, check_teacher


def breaks(sentence):
    return pytest.raises(LawError, match=rf"laws? of \w+ (is|are) broken:(?s:.*)({sentence})")


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
