"""Zhao, Wang and Wei, 2023, arXiv:2306.16170: a clean and a robust teacher beside each alone, on Fashion-MNIST."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from limbeck.data import Attack, ShuffledLoader
from limbeck.data.adversarial_loader import AdversarialLoader
from limbeck.methods import make
from limbeck.papers.claim import Claim, Column, Figure
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import ExperimentScale, Figures, TaskFolder, load_weights, save_weights
from limbeck.papers.small_images import (
    FASHION_MLP,
    SECONDS,
    ImageSetting,
    images_of,
    make_network,
    student_images,
    train_network,
)
from limbeck.recipe import Recipe
from limbeck.task_runner import WorkItem

EPSILON, STEPS, JUDGED = 0.1, 4, 20
"""The largest change of a pixel, the steps of the attack in training, and those of the attack that judges."""
SETTING = replace(
    FASHION_MLP, train=30_000, test=2000, student_images=6000, teacher=("mlp", {"hidden": [200]}),
    student=("mlp", {"hidden": [64]}), teacher_epochs=15, epochs=20,
    quick={"train": 8000, "test": 400, "student_images": 1500, "teacher_epochs": 8, "epochs": 8},
)  # fmt: skip
"""Attacks are expensive, so the clean teacher alone has seen all images; the robust one has those of the students."""
CLEAN = Figure("clean", "clean accuracy", "%", resolution=0.05)
ROBUST = Figure("robust", "PGD-20 accuracy", "%", resolution=0.05)
BOTH = Figure("both", "W-Robust, the mean of both", "%", resolution=0.05)
ARMS = {
    "alone": "adversarial training with labels (the smaller network alone)",
    "clean teacher": "the clean teacher for both kinds of inputs",
    "robust teacher": "the robust teacher for both kinds of inputs",
    "mtard": "one teacher for each kind, and balanced weights",
    "b-mtard": "and balanced temperatures",
}


def teacher_task(seed: int) -> tuple[str, ...]:
    """The task that trains the teachers of a seed."""
    return (f"teachers/seed-{seed}",)


def make_teachers(setting: ImageSetting) -> nn.ModuleDict:
    """The untrained teachers by name."""
    return nn.ModuleDict({name: make_network(setting.teacher, setting, 70) for name in ("clean", "robust")})


def adversarial_training(*, keep_clean: bool) -> Recipe:
    """Learn the labels of adversarial inputs, with clean ones beside them or alone."""
    stage = next(make("supervised").stages())
    attack = Attack(EPSILON, step_size=EPSILON / 4, steps=STEPS, keep_clean=keep_clean)
    return Recipe(replace(stage, loader=attack, name="adversarial_training"))


def train_teachers(folder: TaskFolder, *, seed: int, quick: bool) -> Figures:
    """Train a clean and a robust teacher, measure both, and save them."""
    setting = SETTING.at(quick)
    teachers = make_teachers(setting)
    recipes = {"clean": make("supervised"), "robust": adversarial_training(keep_clean=False)}
    figures: dict[str, float] = {}
    images = {"clean": images_of(setting).train, "robust": student_images(setting)}
    for name, net in teachers.items():
        train_network(net, recipes[name], setting, seed=seed, epochs=setting.teacher_epochs, examples=images[name])
        figures |= {f"{name} {key}": value for key, value in measure(net, setting, seed).items()}
    save_weights(teachers, folder)
    return figures


def measure(net: nn.Module, setting: ImageSetting, seed: int) -> dict[str, float]:
    """The accuracy on test images, clean and after 20 steps of an attack, and the mean of both, in percent."""
    splits = images_of(setting)
    attack = Attack(EPSILON, step_size=EPSILON / 8, steps=JUDGED)
    loader = AdversarialLoader(ShuffledLoader(splits.test, batch_size=500, shuffle=False, seed=seed), attack)
    loader.set_preprocess(splits.preprocess)
    loader.bind({"student": net.eval()})
    right, adversarial = [], []
    for batch in loader.batches(0, 0):
        both = loader.complete(batch)
        with torch.no_grad():
            right.append(net(splits.preprocess(both)).argmax(1) == both.labels)
        adversarial.append(both.extra["adversarial"])
    correct, changed = torch.cat(right).float(), torch.cat(adversarial)
    clean, robust = (100 * float(correct[kind].mean()) for kind in (~changed, changed))
    return {"clean": clean, "robust": robust, "both": (clean + robust) / 2}


def train_arm(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Train one student with one seed, and measure it. All arms see the same number of inputs and attacks."""
    setting = SETTING.at(quick)
    teachers: Mapping[str, Any] = dict(load_weights(make_teachers(setting), folder, teacher_task(seed)[0]).items())  # type: ignore[operator]
    attack: dict[str, Any] = {"epsilon": EPSILON, "attack_steps": STEPS, "teacher": teachers}
    pair = {"clean": "clean", "robust": "robust"}
    recipes = {
        "alone": lambda: adversarial_training(keep_clean=True),
        "clean teacher": lambda: make("mtard", clean="clean", robust="clean", weight_lr=0.0, **attack),
        "robust teacher": lambda: make("mtard", clean="robust", robust="robust", weight_lr=0.0, **attack),
        "mtard": lambda: make("mtard", **pair, **attack),
        "b-mtard": lambda: make("mtard", balance_entropy=True, temperature_lr=0.01, **pair, **attack),
    }
    student, seconds = train_network(
        make_network(setting.student, setting, seed), recipes[arm](), setting, seed=seed, epochs=setting.epochs
    )
    return {**measure(student, setting, seed), "seconds": seconds}


def _over_best_single(column: Column) -> list[float]:
    """MTARD's W-Robust over that of the better single teacher, chosen on the mean over the seeds."""
    singles = [column(arm, BOTH.key) for arm in ("clean teacher", "robust teacher")]
    best = max(singles, key=sum)
    return [ours - other for ours, other in zip(column("mtard", BOTH.key), best, strict=True)]


def _tasks(scale: ExperimentScale) -> list[WorkItem]:
    return [
        WorkItem(teacher_task(seed)[0], partial(train_teachers, seed=seed, quick=scale.quick), (), scale.pick(8, 30))
        for seed in scale.seeds
    ]


STUDY = ClaimStudy(
    "robustness", "Do a clean and a robust teacher make a student more accurate and robust than one of them?", ARMS,
    train_arm, (CLEAN, ROBUST, BOTH, SECONDS),
    [
        Claim("mtard over its best single teacher: W-Robust", _over_best_single, resolution=0.05),
        Claim.of_difference("mtard", "alone", BOTH),
        Claim.of_difference("b-mtard", "mtard", BOTH),
    ],
    {"quick": 2.5, "full": 20.0}, shared=_tasks, requires=teacher_task, skip=SETTING.why_skipped,
)  # fmt: skip
TITLE = (
    "Zhao, Wang and Wei, Mitigating Accuracy-Robustness Trade-off via Balanced Multi-Teacher Adversarial Distillation, "
    "2023, arXiv:2306.16170"
)
CLAIM = "A clean and a robust teacher, balanced, give a student a better mean of clean and robust accuracy than one."
EXPERIMENTS = (STUDY.experiment(),)
