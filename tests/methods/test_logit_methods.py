"""Methods that compare logits: they learn every task on their card, and more than the student alone."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from limbeck.data import ArrayDataset
from limbeck.engine import distill
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.methods import make, method
from limbeck.models import build
from limbeck.tasks import Regression
from limbeck.testing.law import same_weights, weights
from limbeck.testing.trials import TRIALS
from methods.planted import CLASSES, Planted

# The weights are those for few examples and classes, so that the teacher counts beside the labels.
SETTINGS = {
    "ada_alpha": {"class_weights": (0.8,) * CLASSES},
    "ctkd": {"spread": 5.0},
    "dist": {},
    "dkd": {"non_target_weight": 2.0},
    "logit_standardization": {"weight": 2.0, "label_weight": 0.5},
    "mlkd": {},
    "nkd": {},
    "skd": {},
    "ttm": {"exponent": 0.5, "weight": 4.0},
    "wkd": {"weight": 20.0, "temperature": 2.0},
    "wsl": {},
}


@pytest.fixture(scope="module")
def planted():
    return Planted()


@pytest.fixture(scope="module")
def alone(planted):
    return planted.accuracy(planted.alone(epochs=30))


@pytest.mark.parametrize("name", SETTINGS)
def test_it_helps_beside_the_student_alone(planted, alone, name):
    recipe = make(name, teacher=planted.truth, **SETTINGS[name])
    assert planted.accuracy(planted.learn(recipe, epochs=30).student) > alone + 0.03


def tiny_run(task, recipe):
    draw = torch.Generator().manual_seed(0)
    if task == "language_modeling":
        student, _, data = TRIALS["language"]()
    elif task == "segmentation":
        images = torch.randn(16, 1, 4, 4, generator=draw)
        labels = (images[:, 0] > 0).long() + (images[:, 0] > 1).long()
        student = build("fcn", channels=1, classes=3, widths=[4], seed=0)
        data = ArrayDataset(images, labels, mask=torch.rand(16, 4, 4, generator=draw) < 0.8)
    else:
        x = torch.randn(32, 4, generator=draw)
        y = x[:, :3]
        student = build("mlp", inputs=4, classes=3, hidden=[8], seed=0)
        data = ArrayDataset(x, extra={"targets": (y > 0).long() if task == "multi_label" else y})
    return distill(student, recipe, data, batch_size=16, epochs=1, seed=1, log_every=1).finish()


def teacher_for(task):
    if task == "language_modeling":
        return TRIALS["language"]()[1]
    if task == "segmentation":
        return build("fcn", channels=1, classes=3, widths=[6], seed=7)
    return build("mlp", inputs=4, classes=3, hidden=[8], seed=7)


def other_tasks():
    return [(name, task) for name in SETTINGS for task in method(name).card.tasks if task != "classification"]


@pytest.mark.parametrize(("name", "task"), other_tasks())
def test_it_learns_every_task_on_its_card(name, task):
    fitted = Regression() if task == "regression" else task
    other = {"label_weight": 3.0} if "label_weight" in method(name).parameters else {"temperature": 9.0}
    classes = {"language_modeling": 11, "segmentation": 3}.get(task, CLASSES)
    sized = {"class_weights": (0.8,) * classes} if name == "ada_alpha" else {}
    first, second = (
        tiny_run(task, make(name, teacher=teacher_for(task), task=fitted, **SETTINGS[name] | sized | changed))
        for changed in ({}, other)
    )
    assert all(torch.isfinite(torch.tensor(report.loss)) for report in first.history)
    assert not same_weights(weights(first.student), weights(second.student))


@pytest.mark.parametrize("name", [name for name in SETTINGS if method(name).card.labels == "optional"])
def test_a_label_weight_of_0_needs_no_labels(planted, name):
    recipe = make(name, teacher=planted.truth, label_weight=0.0)
    student = planted.student()
    before = weights(student)
    distill(student, recipe, planted.x, batch_size=40, epochs=1).finish()
    assert not same_weights(weights(student), before)


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("kd_sim", "similarity_temperature"), ("listwise_kl", "student_temperature"),
        ("listwise_kl", "teacher_temperature"), ("crd", "contrast_temperature"), ("sskd", "similarity_temperature"),
        ("subclass_distillation", "auxiliary_temperature"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("wrong", [0.0, math.inf, -1.0])
def test_a_second_temperature_is_refused_by_its_own_name(name, argument, wrong):
    with pytest.raises(ArgumentError, match=f"^{argument} is") as caught:
        method(name).make(torch.nn.Linear(2, 3), **{**method(name).card.example, argument: wrong})
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    ("name", "argument"),
    [("ctkd", "level"), ("rank_distillation", "loss"), ("semiparametric", "loss"), ("embedding_distillation", "loss")],
)
@pytest.mark.parametrize("wrong", [None, 1, ["pairwise"]])
def test_a_name_that_is_no_text_is_refused(name, argument, wrong):
    with pytest.raises(LimbeckError, match="Unknown"):
        inspect.unwrap(method(name).make)(torch.nn.Linear(2, 3), **{argument: wrong})
