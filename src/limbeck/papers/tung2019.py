"""Tung and Mori, 2019, arXiv:1907.09682: similarities between examples as the only knowledge, on Fashion-MNIST."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from limbeck.methods import make
from limbeck.papers.claim import Claim
from limbeck.papers.claim_study import ClaimStudy, SettingsSearch
from limbeck.papers.experiment import Figures, TaskFolder
from limbeck.papers.small_images import (
    ACCURACY,
    FASHION_MLP,
    FIGURES,
    load_teacher,
    share_teachers,
    train_student,
)

ARMS = {
    "alone": "labels",
    "kd": "labels and soft targets",
    "sp": "labels and similarities of the last hidden layer",
    "kd and sp": "labels, soft targets and the same similarities",
}
SETTING = replace(FASHION_MLP, development_images=10_000, quick={**FASHION_MLP.quick, "epochs": 20})
LAYERS = {"at": "layer2", "student_at": "layer2"}
"""The last hidden layers of both networks, 400 and 20 units wide."""


def train_arm(
    folder: TaskFolder, *, arm: str, seed: int, quick: bool, development: bool = False, lr: float | None = None,
    **settings: Any,
) -> Figures:  # fmt: skip
    """Train a student of one arm from the teacher of its seed."""
    setting = SETTING.at(quick, development=development, lr=lr)
    teacher = load_teacher(folder, setting, seed)
    recipes = {
        "alone": lambda: make("supervised"),
        "kd": lambda: make("hinton", teacher=teacher, **settings),
        "sp": lambda: make("similarity_preserving", teacher=teacher, **LAYERS, **settings),
        "kd and sp": lambda: make("similarity_preserving", teacher=teacher, **LAYERS, **settings, soft_weight=0.9),
    }
    return train_student(recipes[arm](), setting, seed=seed, teacher=teacher)


RATES = (1e-3, 2e-3, 4e-3, 8e-3)
SOFT = [{"lr": lr, "temperature": t, "weight": w} for t, w in ((4.0, 0.9), (2.0, 0.5)) for lr in (2e-3, 4e-3)]
SIMILAR = [{"lr": lr, "weight": weight} for weight in (3000.0, 300.0) for lr in (2e-3, 4e-3)]
"""3000 is the weight of the paper on CIFAR-10."""
STUDY = ClaimStudy(
    "similarities", "Do similarities between examples teach a narrower network?", ARMS, train_arm, FIGURES,
    [
        Claim.of_difference("sp", "alone", ACCURACY),
        Claim.of_difference("sp", "kd", ACCURACY),
        Claim.of_difference("kd and sp", "kd", ACCURACY),
    ],
    {"quick": 3, "full": 12},
    **share_teachers(SETTING),
    search=SettingsSearch(
        {"alone": [{"lr": lr} for lr in RATES], "kd": SOFT, "sp": SIMILAR, "kd and sp": SIMILAR}, ACCURACY,
        seeds=(100, 101, 102),  # one seed alone chose for the labels a rate that was the worst with others
    ),
)  # fmt: skip

EXPERIMENTS = (STUDY.experiment(),)
TITLE = "Tung and Mori, Similarity-Preserving Knowledge Distillation, 2019, arXiv:1907.09682"
CLAIM = "Similarities between examples teach a student more than labels alone, and more than soft targets."
