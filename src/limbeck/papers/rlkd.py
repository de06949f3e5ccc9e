"""Yuan et al., 2020, arXiv:2012.06048: whether a policy finds the right teacher, among two experts and a bad one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from limbeck.batch import Batch, Outputs
from limbeck.data import ArrayDataset, Dataset
from limbeck.methods import make
from limbeck.methods.teachers.member_outputs import describe_members, read_members
from limbeck.methods.teachers.multi_teacher import WeightedTeachers
from limbeck.methods.teachers.rl_kd import SelectedTeachers
from limbeck.papers.claim import Claim, Column, Figure
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import ExperimentScale, Figures, TaskFolder, load_weights, save_weights
from limbeck.papers.small_images import (
    ACCURACY,
    FASHION_MLP,
    NLL,
    SECONDS,
    ImageSetting,
    images_of,
    make_network,
    measure_network,
    run_recipe,
    student_images,
    train_network,
)
from limbeck.task_runner import WorkItem

SETTING = replace(
    FASHION_MLP, train=6000, student_images=3000, teacher=("mlp", {"hidden": [100]}), student=("mlp", {"hidden": [40]}),
    teacher_epochs=15, epochs=40, quick={"train": 3000, "student_images": 1500, "teacher_epochs": 8, "epochs": 30},
)  # fmt: skip
TEACHERS = ("first", "second", "bad")
"""The first knows classes 0 to 4 alone, the second 5 to 9, and the bad one has learned each class as another one."""
ARMS = {
    "alone": "labels",
    "kd": "the average of all teachers, and labels",
    "confidence": "multi_teacher with the weights of CA-MKD, and labels",
    "gate": "multi_teacher with a learned gate, and labels",
    "rl_kd": "teachers that a policy selects, and labels",
}
BAD = Figure("bad", "weight of the bad teacher", "", lower_is_better=True)
RIGHT = Figure("right", "share of the right expert among both", "%")


def teacher_task(seed: int) -> tuple[str, ...]:
    """The task that trains the teachers of a seed."""
    return (f"teachers/seed-{seed}",)


def make_teachers(setting: ImageSetting) -> nn.ModuleDict:
    """The untrained teachers by name."""
    return nn.ModuleDict(
        {name: make_network(setting.teacher, setting, 100 + number) for number, name in enumerate(TEACHERS)}
    )


def lessons(setting: ImageSetting) -> Mapping[str, Dataset]:
    """What each teacher learns."""
    whole = images_of(setting).train
    batch = whole.take(torch.arange(len(whole)))
    labels = batch.labels if batch.labels is not None else torch.zeros(0)
    parts = {"first": labels < 5, "second": labels >= 5}
    chosen: dict[str, Dataset] = {
        name: ArrayDataset(batch.inputs[rows], labels[rows], class_names=whole.class_names)
        for name, rows in parts.items()
    }
    return {**chosen, "bad": ArrayDataset(batch.inputs, (labels + 3) % 10, class_names=whole.class_names)}


def train_teachers(folder: TaskFolder, *, seed: int, quick: bool) -> Figures:
    """Train the teachers of a seed, and save them."""
    setting = SETTING.at(quick)
    teachers, own = make_teachers(setting), lessons(setting)
    figures: dict[str, float] = {}
    for name, net in teachers.items():
        _, figures[f"{name} seconds"] = train_network(
            net, make("supervised"), setting, seed=seed, epochs=setting.teacher_epochs, examples=own[name]
        )
        figures[name] = measure_network(net, setting)["accuracy"]
    save_weights(teachers, folder)
    return figures


def measure_weights(objective: Any, teachers: nn.ModuleDict, setting: ImageSetting) -> dict[str, float]:
    """The mean weight of the bad teacher on training images, and the share of the right expert among both.

    They are empty for an objective without weights.
    """
    examples = student_images(setting)
    batch = examples.take(torch.arange(len(examples)))
    inputs = images_of(setting).preprocess(batch)
    with torch.no_grad():
        own = Outputs({f"{name}.logits": net.eval()(inputs) for name, net in teachers.items()})
        student = Outputs(logits=torch.zeros_like(own["first.logits"]))
        rows = read_members(student, own, Batch(inputs, labels=batch.labels), TEACHERS, method="rlkd")
        if isinstance(objective, SelectedTeachers):
            weights = objective.policy(describe_members(rows))
            weights = weights / weights.sum(0).clamp_min(1e-9)
        elif isinstance(objective, WeightedTeachers):
            weights = objective.log_weights(rows).exp()
        else:
            return {}
    right = torch.where(rows.labels < 5, weights[0], weights[1])
    share = right / (weights[0] + weights[1]).clamp_min(1e-9)
    return {"bad": float(weights[2].mean()), "right": 100 * float(share.mean())}


def train_arm(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Train one student, and measure it and the weights of its teachers."""
    setting = SETTING.at(quick)
    teachers = load_weights(make_teachers(setting), folder, teacher_task(seed)[0])
    several: dict[str, Any] = {"teacher": dict(teachers.items()), "temperature": 4.0, "weight": 0.5}  # type: ignore[operator]
    recipes = {
        "alone": lambda: make("supervised"),
        "kd": lambda: make("multi_teacher", weights="fixed", **several),
        "confidence": lambda: make("multi_teacher", weights="confidence", **several),
        "gate": lambda: make("multi_teacher", weights="gate", **several),
        "rl_kd": lambda: make("rl_kd", policy_lr=0.5, **several),
    }
    recipe = recipes[arm]()
    run, seconds = run_recipe(
        make_network(setting.student, setting, seed), recipe, setting, seed=seed, epochs=setting.epochs
    )
    weights = measure_weights(run.stages[0].objective, teachers, setting)  # type: ignore[arg-type]
    return {**measure_network(run.student, setting), **weights, "seconds": seconds}


def _tasks(scale: ExperimentScale) -> list[WorkItem]:
    return [
        WorkItem(teacher_task(seed)[0], partial(train_teachers, seed=seed, quick=scale.quick), (), 3.0)
        for seed in scale.seeds
    ]


def _below_a_fifth(arm: str, column: Column) -> list[float]:
    return [0.2 - value for value in column(arm, BAD.key)]


def _above_half(arm: str, column: Column) -> list[float]:
    return [value - 50.0 for value in column(arm, RIGHT.key)]


STUDY = ClaimStudy(
    "teachers", "Does a policy find the right teacher of each example, and leave out a bad one?", ARMS, train_arm,
    (ACCURACY, NLL, BAD, RIGHT, SECONDS),
    [
        Claim.of_difference("rl_kd", "kd", ACCURACY),
        Claim.of_difference("rl_kd", "alone", ACCURACY),
        Claim("rl_kd: the bad teacher has a weight below 0.2", partial(_below_a_fifth, "rl_kd"), ""),
        Claim("rl_kd: the right expert is selected more than the other", partial(_above_half, "rl_kd")),
        Claim("gate: the bad teacher has a weight below 0.2", partial(_below_a_fifth, "gate"), ""),
        Claim.of_difference("gate", "kd", ACCURACY),
    ],
    {"quick": 4.0, "full": 15.0}, shared=_tasks, requires=teacher_task, skip=SETTING.why_skipped,
)  # fmt: skip
TITLE = (
    "Yuan, Shou, Pei, Lin, Gong, Fu and Jiang, Reinforced Multi-Teacher Selection for Knowledge Distillation, 2020, "
    "arXiv:2012.06048"
)
CLAIM = "A policy that selects teachers for each example teaches a student more than the average of all teachers."
EXPERIMENTS = (STUDY.experiment(),)
