"""Stanton et al., 2021, arXiv:2106.05945: the agreement of students with their teachers, and their accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from limbeck.data import Dataset
from limbeck.methods import make
from limbeck.papers.claim import Claim, Column
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import ExperimentScale, Figures, Row, TaskFolder, load_weights, renumbered, save_weights
from limbeck.papers.small_images import (
    ACCURACY,
    AGREEMENT,
    FASHION_MLP,
    FIGURES,
    images_of,
    make_network,
    measure_network,
    train_network,
    train_student,
)
from limbeck.task_runner import WorkItem

SETTING = replace(
    FASHION_MLP, train=16_000, student_images=0, teacher=("mlp", {"hidden": [100, 100]}),
    student=("mlp", {"hidden": [100, 100]}), quick={"train": 8000},
)  # fmt: skip
"""Self-distillation: teacher and student are alike."""
ARMS = {
    "alone": "labels of the teacher's images",
    "kd": "the teacher's images, no labels, T = 4",
    "kd, 4 x images": "four times as many images",
    "kd, all images": "eight times as many (16 at scale full)",
    "other teacher": "the teacher's images, but a teacher of another seed: how much two networks agree anyway",
    "same start": "the initial weights of the teacher",
    "start at 0.5": "starts halfway between new weights and those of the trained teacher",
    "start at 1": "starts at the trained teacher",
}
LABELED = 1000
"""The number of images of the teacher."""


def transfer_images(arm: str, setting_train: int, seed: int, *, quick: bool) -> Dataset:
    """The images of an arm: the teacher's are the first of all others."""
    count = {"kd, 4 x images": 4 * LABELED, "kd, all images": setting_train}.get(arm, LABELED)
    order = torch.randperm(setting_train, generator=torch.Generator().manual_seed(seed))
    return renumbered(images_of(SETTING.at(quick)).train.select(order[:count]))


def teach(folder: TaskFolder, *, kind: str, seed: int, quick: bool) -> Figures:
    """Train a teacher on labels."""
    setting = SETTING.at(quick)
    start = _start(seed) if kind == "teacher" else 2000 + seed
    net = make_network(setting.teacher, setting, start)
    images = transfer_images("alone", setting.train, seed, quick=quick)
    train_network(net, make("supervised"), setting, seed=start, epochs=30, examples=images)
    save_weights(net, folder)
    return measure_network(net, setting)


def train_arm(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Train one student, with as many steps in each arm."""
    setting = SETTING.at(quick)
    teacher, other = (
        load_weights(make_network(setting.teacher, setting, 0), folder, _task(kind, seed))
        for kind in ("teacher", "other")
    )
    images = transfer_images(arm, setting.train, seed, quick=quick)
    epochs = round(scale_of(quick) * setting.train / len(images))
    recipe = make(
        "hinton", teacher=other if arm == "other teacher" else teacher, temperature=4.0, weight=1.0, labels=False
    )
    if arm == "alone":
        recipe, epochs = make("supervised"), 30
    student = _student(arm, setting.student, teacher, seed, quick=quick)
    return train_student(recipe, setting, seed=seed, teacher=teacher, student=student, epochs=epochs, examples=images)


def scale_of(quick: bool) -> int:
    """Epochs over all images, to which the steps of all arms but ``alone`` are equal."""
    return 6 if quick else 12


def _student(
    arm: str, network: tuple[str, Mapping[str, object]], teacher: nn.Module, seed: int, *, quick: bool
) -> nn.Module:
    setting = SETTING.at(quick)
    student = make_network(network, setting, _start(seed) if arm == "same start" else seed)
    share = {"start at 0.5": 0.5, "start at 1": 1.0}.get(arm, 0.0)
    with torch.no_grad():
        for own, learned in zip(student.parameters(), teacher.parameters(), strict=True):
            own.lerp_(learned, share)
    return student


def _start(seed: int) -> int:
    return 1000 + seed


def _task(kind: str, seed: int) -> str:
    return f"fidelity/{kind}-model/seed-{seed}"


def _teachers(scale: ExperimentScale) -> list[WorkItem]:
    return [
        WorkItem(_task(kind, seed), partial(teach, kind=kind, seed=seed, quick=scale.quick), (), 1.5)
        for seed in scale.seeds for kind in ("teacher", "other")
    ]  # fmt: skip


def describe_training(scale: ExperimentScale) -> str:
    """Data, networks and training in a sentence."""
    own = SETTING.at(scale.quick)
    return (
        f"{own.data}: teachers and students have the same network, `{own.student[0]} {dict(own.student[1])}`; the "
        f"teacher of each seed learns {LABELED:,} labeled images; students take as many steps as "
        f"{scale_of(scale.quick)} epochs over {own.train:,} images, and alone 30 epochs of its own; {own.test:,} test "
        "images."
    )


def _rows(scale: ExperimentScale, results: Mapping[str, Figures]) -> list[Row]:
    values = [results[_task("teacher", seed)]["accuracy"] for seed in scale.seeds]
    return [Row("the teacher: accuracy", values, "%", lower_is_better=False)]


def _disagreement(column: Column) -> list[float]:
    return [99.0 - value for value in column("kd", "agreement")]


CLAIMS = (
    Claim("kd agrees with its teacher in less than 99 % of test images", _disagreement, largest=100.0),
    Claim.of_difference("kd", "other teacher", AGREEMENT),
    Claim.of_trend(("kd", "kd, 4 x images", "kd, all images"), AGREEMENT, sentence="agreement grows with the images"),
    Claim.of_trend(
        ("kd", "kd, 4 x images", "kd, all images"), ACCURACY, increases=False,
        sentence="accuracy falls with the images, as agreement grows",
    ),
    Claim.of_equality("same start", "kd", AGREEMENT, margin=1.0),
    Claim.of_difference("start at 0.5", "kd", AGREEMENT),
)  # fmt: skip
STUDY = ClaimStudy(
    "fidelity", "Does a student that generalizes also agree with its teacher?", ARMS, train_arm, FIGURES, CLAIMS,
    {"quick": 3, "full": 10}, shared=_teachers,
    requires=lambda seed: (_task("teacher", seed), _task("other", seed)), rows=_rows, skip=SETTING.why_skipped,
    describe=describe_training,
)  # fmt: skip
TITLE = (
    "Stanton, Izmailov, Kirichenko, Alemi and Wilson, Does Knowledge Distillation Really Work?, 2021, arXiv:2106.05945"
)
CLAIM = (
    "A good student often disagrees with its teacher, also of its own size: that is a matter of data and optimization."
)
EXPERIMENTS = (STUDY.experiment(),)
