"""Mishra and Marr, 2018, arXiv:1711.05852: whether a rounded student regains what rounding loses, from itself."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from limbeck.methods import make
from limbeck.methods.logits.qad import quantize_recipe
from limbeck.models import fake_quantize, observe_ranges
from limbeck.papers.claim import Claim, Column, Figure
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import ExperimentScale, Figures, TaskFolder, load_weights, save_weights
from limbeck.papers.small_images import (
    ACCURACY,
    FASHION_MLP,
    SECONDS,
    ImageSetting,
    images_of,
    load_teacher,
    make_network,
    measure_network,
    student_images,
    teacher_rows,
    teacher_tasks,
    train_network,
)
from limbeck.recipe import Optimizer
from limbeck.task_runner import WorkItem

SETTING = replace(FASHION_MLP, quick={**FASHION_MLP.quick, "student_images": 0})
"""Float students and rounded ones have the images of the teacher."""
OPTIMIZER = Optimizer("adamw", lr=1e-3, warmup=0.05)
"""The optimizer of rounded students."""
FORMATS: dict[str, dict[str, Any]] = {
    "int8": {},
    "int8, one scale": {"per_channel": False},
    "int8, one scale, wide": {"per_channel": False},
    "int4": {"weights": "int4"},
    "int4, one scale": {"weights": "int4", "per_channel": False},
    "ternary": {"weights": "ternary"},
}
"""Weights and how many scales a layer has. All inputs of layers have 8 bits, and one scale. The units of the ``wide``
student have been rescaled (`rescale_units`)."""
ARMS = {
    "float": "the distilled student in full precision",
    **{f"{name}, {how}": meaning for name in FORMATS for how, meaning in {
        "rounded": "the same student, rounded", "trained": "and trained for more epochs by its float outputs"}.items()},
    "ternary, labels": "rounded, and trained for as many epochs by labels",
}  # fmt: skip
LOST = Figure("lost", "lost to float", "points", lower_is_better=True)


def float_task(setting: ImageSetting, seed: int) -> str:
    """The name of the task that trains the float student of a seed."""
    return f"float/{setting.data}/seed-{seed}"


def train_float(folder: TaskFolder, *, setting: ImageSetting, seed: int) -> Figures:
    """Distill the student of a seed in full precision, and save it."""
    recipe = make("hinton", teacher=load_teacher(folder, setting, seed), temperature=4.0, weight=0.9)
    student = make_network(setting.student, setting, seed)
    student, seconds = train_network(student, recipe, setting, seed=seed, epochs=setting.epochs)
    save_weights(student, folder)
    return {**measure_network(student, setting), "seconds": seconds}


def rescale_units(net: nn.Module, seed: int) -> nn.Module:
    """Multiply the inputs of each hidden unit by a factor, and its outputs by the inverse: the same function.

    The factors are drawn from 1/16 to 16, on a logarithmic scale. So wide are the channels of deployed networks whose
    BatchNorm was folded into their weights (Nagel et al., 2019, arXiv:1906.04721). The network is changed.
    """
    draw = torch.Generator().manual_seed(seed)
    layers = [module for module in net.modules() if isinstance(module, nn.Linear)]
    with torch.no_grad():
        for before, after in pairwise(layers):
            factor = 16 ** (2 * torch.rand(before.out_features, generator=draw) - 1)
            before.weight.mul_(factor.unsqueeze(1))
            before.bias.mul_(factor)
            after.weight.div_(factor)
    return net


def shared_tasks(scale: ExperimentScale) -> list[WorkItem]:
    """The tasks that train teachers and float students."""
    own = SETTING.at(scale.quick)
    return [
        *teacher_tasks(SETTING, scale),
        *(
            WorkItem(
                float_task(own, seed), partial(train_float, setting=own, seed=seed), own.teacher_of(seed),
                own.teacher_seconds,
            )
            for seed in scale.seeds
        ),
    ]  # fmt: skip


def train_arm(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Round the float student of a seed, train it again or not, and measure it."""
    setting = SETTING.at(quick)
    student = load_weights(make_network(setting.student, setting, seed), folder, float_task(setting, seed))
    before, cost = measure_network(student, setting)["accuracy"], dict[str, float]()
    kind, _, how = arm.rpartition(", ")
    if kind.endswith("wide"):
        student = rescale_units(student, seed)
    own, epochs = replace(setting, optimizer=OPTIMIZER), max(setting.epochs // 3, 1)
    if how == "trained":
        recipe = quantize_recipe(None, **FORMATS[kind])
        student, cost["seconds"] = train_network(student, recipe, own, seed=seed, epochs=epochs)
    elif kind:
        splits = images_of(setting)
        inputs = splits.preprocess(student_images(setting).take(torch.arange(512)))
        student = fake_quantize(student, ranges=observe_ranges(student, [inputs]), **FORMATS[kind])
    if how == "labels":
        student, cost["seconds"] = train_network(student, make("supervised"), own, seed=seed, epochs=epochs)
    figures = measure_network(student, setting)
    return {**figures, "lost": before - figures["accuracy"], **cost}


def regained(kind: str) -> Claim:
    """The claim that a student of a format regains at least half of what rounding loses."""

    def values(column: Column) -> list[float]:
        pairs = zip(column(f"{kind}, rounded", "lost"), column(f"{kind}, trained", "lost"), strict=True)
        return [rounded / 2 - trained for rounded, trained in pairs]

    return Claim(f"{kind}: more than half of the loss is regained", values, largest=100.0)


def _requires(seed: int) -> tuple[str, ...]:
    return (float_task(SETTING, seed),)


STUDY = ClaimStudy(
    "rounded", "Does a rounded student regain what rounding loses, by learning from itself?", ARMS, train_arm,
    (ACCURACY, LOST, SECONDS),
    [
        *(Claim.of_difference(f"{kind}, trained", f"{kind}, rounded", ACCURACY) for kind in FORMATS),
        *map(regained, FORMATS),
        Claim.of_difference("ternary, trained", "ternary, labels", ACCURACY),
    ],
    {"quick": 1.5, "full": 8.0}, shared=shared_tasks, requires=_requires, rows=partial(teacher_rows, SETTING),
    skip=SETTING.why_skipped,
)  # fmt: skip
TITLE = (
    "Mishra and Marr, Apprentice: Using Knowledge Distillation Techniques To Improve Low-Precision Network Accuracy, "
    "2018, arXiv:1711.05852"
)
CLAIM = "A network with few bits that learns the outputs of the same network in full precision regains what it lost."
EXPERIMENTS = (STUDY.experiment(),)
