"""Kim et al., 2022, arXiv:2211.10938: whether a network gains from a trained copy of itself and a critic of outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.data import ShuffledLoader
from limbeck.methods import make
from limbeck.metrics import predict
from limbeck.papers.claim import Claim, Figure
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import Figures, TaskFolder
from limbeck.papers.small_images import (
    ACCURACY,
    ECE,
    FASHION_MLP,
    NLL,
    SECONDS,
    images_of,
    load_teacher,
    make_network,
    measure_network,
    share_teachers,
    train_network,
)
from limbeck.recipe import Recipe

SETTING = replace(
    FASHION_MLP, train=4000, student_images=0, teacher=("mlp", {"hidden": [100, 100]}),
    student=("mlp", {"hidden": [100, 100]}), teacher_epochs=40, epochs=40,
    quick={"train": 1500, "teacher_epochs": 25, "epochs": 25, "teacher_seconds": 2.0},
)  # fmt: skip
"""Self-distillation: the trained network has the student's architecture, images and epochs, and another seed."""
ARMS = {
    "alone": "labels",
    "kd": "labels and the soft targets of the trained copy, T = 4",
    "previous": "labels softened by the previous epoch (PS-KD)",
    "ai_kd, no critic": "the trained copy and the previous epoch",
    "ai_kd": "and the critic",
}
DISTANCE = Figure("distance", "distance of the outputs", "nats", lower_is_better=True)
FIGURES = (ACCURACY, NLL, ECE, DISTANCE, SECONDS)


def make_recipe(arm: str, teacher: Any) -> Recipe:
    """The recipe of an arm."""
    recipes: dict[str, Callable[[], Recipe]] = {
        "alone": lambda: make("supervised"),
        "kd": lambda: make("hinton", teacher=teacher, temperature=4.0, weight=0.5),
        "previous": lambda: make("ai_kd", teacher=teacher, weight=0.0, adversarial_weight=0.0),
        "ai_kd, no critic": lambda: make("ai_kd", teacher=teacher, adversarial_weight=0.0),
        "ai_kd": lambda: make("ai_kd", teacher=teacher),
    }
    return recipes[arm]()


def energy_distance(x: Float[Tensor, "n width"], y: Float[Tensor, "m width"]) -> float:
    r"""Compute :math:`2 E|X - Y| - E|X - X'| - E|Y - Y'|`, 0 for equal distributions.

    Example:
        >>> energy_distance(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [0.0]]))
        0.0

    Source: Szekely and Rizzo, 2013, Energy statistics.
    """
    x, y = x.double(), y.double()
    return float(2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean())


def train_arm(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Train one student, and measure it and the distance of its outputs from those of the trained copy."""
    setting = SETTING.at(quick)
    teacher = load_teacher(folder, setting, seed)
    student, seconds = train_network(
        make_network(setting.student, setting, seed), make_recipe(arm, teacher), setting, seed=seed,
        epochs=setting.epochs,
    )  # fmt: skip
    splits = images_of(setting)
    loader = ShuffledLoader(splits.test, batch_size=500, shuffle=False)
    ours, theirs = (
        predict(model, loader, preprocess=splits.preprocess).student.log_softmax(-1) for model in (student, teacher)
    )
    measured = measure_network(student, setting)
    return {**measured, "distance": energy_distance(ours, theirs), "seconds": seconds}


STUDY = ClaimStudy(
    "self", "Does a network gain from a trained copy of itself, its last epoch, and a critic?", ARMS, train_arm,
    FIGURES,
    [
        Claim.of_difference("ai_kd", "alone", ACCURACY),
        Claim.of_difference("ai_kd", "kd", ACCURACY),
        Claim.of_difference("ai_kd", "previous", ACCURACY),
        Claim.of_difference("ai_kd", "alone", ECE),
        Claim.of_difference("ai_kd", "ai_kd, no critic", DISTANCE, sentence="the critic brings the outputs nearer"),
    ],
    {"quick": 3.0, "full": 9.0}, **share_teachers(SETTING),
)  # fmt: skip
TITLE = (
    "Kim, Suh, Baek, Kim, Jeong, Cho and Kim, AI-KD: Adversarial learning and Implicit regularization for "
    "self-Knowledge Distillation, 2022, arXiv:2211.10938"
)
CLAIM = "A network learns more from a trained copy of itself, its last epoch and a critic of its outputs than alone."
EXPERIMENTS = (STUDY.experiment(),)
