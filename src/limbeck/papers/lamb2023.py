"""Lamb et al., 2023, arXiv:2306.04431: certified gaps in confidence between student and teacher, on MNIST."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from limbeck.data import Attack
from limbeck.methods import make
from limbeck.metrics import certified_gap, confidence_gap
from limbeck.models import build
from limbeck.papers.claim import Claim, Figure
from limbeck.papers.claim_study import ClaimStudy, SettingsSearch
from limbeck.papers.experiment import ExperimentScale, Figures, TaskFolder, load_weights, save_weights
from limbeck.papers.small_images import (
    ACCURACY,
    EXAMPLES,
    SECONDS,
    ImageSetting,
    images_of,
    measure_network,
    train_network,
)
from limbeck.recipe import Optimizer, Recipe
from limbeck.task_runner import WorkItem

EPSILON, TOLERANCE, STEPS = 4 / 255, 0.1, 10
"""The largest change of a pixel, the largest gap of a faithful student, and the steps of the attack that judges."""
SETTING = ImageSetting(
    "mnist", 20_000, 2000, ("cnn", {"widths": [8]}), ("cnn", {"widths": [4]}), 10, 20, student_images=6000,
    optimizer=Optimizer("adamw", lr=1e-2, warmup=0.05), precision="32-true",
    quick={"train": 3000, "test": 500, "student_images": 1000, "teacher_epochs": 6, "epochs": 6},
)  # fmt: skip
ATTACKED = Figure("attack", "gap by attack", "probability", lower_is_better=True)
BOUND = Figure("bound", "certified bound", "probability", lower_is_better=True)
FAITHFUL = Figure("faithful", "certainly faithful", "%", examples=EXAMPLES)
DISAGREEMENT = Figure("disagreement", "other class than the teacher", "%", lower_is_better=True, examples=EXAMPLES)
TEACHER = "teacher"
ARMS = {
    "alone": "labels",
    "kd": "labels and soft targets, w = 0.9",
    "adversarial": "soft targets on images and on attacked ones (mtard with this teacher alone)",
    "faithful": "kd at T = 1, and the certified bound",
}


def make_pooled(network: tuple[str, Any], seed: int) -> nn.Module:
    """Make a convolutional network that reads means of 2 x 2 pixels: a quarter of the time."""
    name, arguments = network
    return nn.Sequential(nn.AvgPool2d(2), build(name, channels=1, classes=10, size=14, seed=seed, **arguments))


def train_teacher(folder: TaskFolder, *, quick: bool) -> Figures:
    """Train the teacher on the labels of attacked images, because bounds of other networks say little, and save it."""
    setting = SETTING.at(quick)
    stage = next(make("supervised").stages())
    recipe = Recipe(replace(stage, loader=Attack(0.1, step_size=0.05, steps=3, keep_clean=False), name="attacked"))
    net, seconds = train_network(
        make_pooled(setting.teacher, 1000), recipe, setting, seed=1000, epochs=setting.teacher_epochs,
        examples=images_of(setting).train,
    )  # fmt: skip
    save_weights(net, folder)
    return {**measure_network(net, setting), "seconds": seconds}


def measure_gaps(student: nn.Module, teacher: nn.Module, setting: ImageSetting) -> dict[str, float]:
    """Measure the gaps of a student on the test images."""
    splits = images_of(setting)
    batch = splits.test.take(torch.arange(len(splits.test)))
    pixels = [batch._replace(inputs=batch.inputs.float())]
    box: dict[str, Any] = {"radius": 255 * EPSILON, "limits": (0.0, 255.0)}
    box |= {"student_preprocess": splits.preprocess, "teacher_preprocess": splits.preprocess}
    attack = confidence_gap(student, teacher, pixels, steps=STEPS, **box)
    bound = certified_gap(student, teacher, pixels, **box)
    return {
        "attack": attack.mean.value,
        "bound": bound.mean.value,
        "faithful": 100 * bound.within(TOLERANCE).value,
        "disagreement": 100 * bound.disagreement.value,
    }


def train_arm(
    folder: TaskFolder, *, arm: str, seed: int, quick: bool, development: bool = False, lr: float | None = None,
    **settings: Any,
) -> Figures:  # fmt: skip
    """Train one student with one seed, and measure it."""
    setting = SETTING.at(quick, development=development, lr=lr)
    teacher = load_weights(make_pooled(setting.teacher, 0), folder, TEACHER)
    attacked = {"teacher": {"only": teacher}, "clean": "only", "robust": "only", "weight_lr": 0.0, "attack_steps": 3}
    recipes: dict[str, Callable[[], Recipe]] = {
        "alone": lambda: make("supervised"),
        "kd": lambda: make("hinton", teacher=teacher, **settings),
        "adversarial": lambda: make("mtard", **attacked, **settings),
        "faithful": lambda: make(
            "faithful_distillation", teacher=teacher, epsilon=EPSILON, temperature=1.0, **settings
        ),
    }
    student, seconds = train_network(
        make_pooled(setting.student, seed), recipes[arm](), setting, seed=seed, epochs=setting.epochs
    )
    figures = measure_network(student.eval(), setting)
    return {**figures, **measure_gaps(student, teacher, setting), "seconds": seconds}


def describe(scale: ExperimentScale) -> str:
    """Data, networks and training in words."""
    own = SETTING.at(scale.quick)
    return (
        "MNIST as means of 2 x 2 pixels, changes of up to 4/255 of each pixel. One teacher for all seeds, a "
        f"convolution of 8 channels, learned {own.train:,} images under attack (0.1, 3 steps) in "
        f"{own.teacher_epochs} epochs; students have 4 channels and learn {own.student_images:,} images in "
        f"{own.epochs} epochs; {own.test:,} test images, attacks of {STEPS} steps, faithful within {TOLERANCE:g}."
    )


def _tasks(scale: ExperimentScale) -> list[WorkItem]:
    return [WorkItem(TEACHER, partial(train_teacher, quick=scale.quick), (), 10.0 if scale.quick else 200.0)]


STUDY = ClaimStudy(
    "faithful", "Are students of faithful distillation certified to be nearer to their teacher?", ARMS, train_arm,
    (ACCURACY, ATTACKED, BOUND, FAITHFUL, DISAGREEMENT, SECONDS),
    [
        *(Claim.of_difference("faithful", arm, BOUND) for arm in ("kd", "alone", "adversarial")),
        Claim.of_difference("faithful", "kd", FAITHFUL),
        Claim.of_difference("faithful", "kd", ATTACKED),
        Claim.of_difference(
            "faithful", "kd", ACCURACY, margin=-1.0, sentence="faithful is at most 1 point less accurate than kd"
        ),
    ],
    {"quick": 3.0, "full": 60.0}, shared=_tasks, requires=lambda _: (TEACHER,), skip=SETTING.why_skipped,
    describe=describe,
    search=SettingsSearch(
        {
            "alone": [{"lr": 1e-2}, {"lr": 3e-2}],
            "kd": [{"temperature": 1.0}, {"temperature": 4.0}],
            "adversarial": [{"epsilon": EPSILON}, {"epsilon": 0.1}],
            "faithful": [{"gap_weight": 1.0}, {"gap_weight": 4.0}],
        },
        BOUND,
    ),
)  # fmt: skip
TITLE = "Lamb, Brunel, Dvijotham, Kumar, Torr and Eiras, Faithful Knowledge Distillation, 2023, arXiv:2306.04431"
CLAIM = "Faithful distillation gives students that are certified to be as confident as their teacher near an example."
EXPERIMENTS = (STUDY.experiment(),)
