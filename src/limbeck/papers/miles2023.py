"""Miles and Mikolajczyk, 2023, arXiv:2303.11098: a projector, normalization, and a soft maximum of errors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from limbeck.functional import cross_entropy, kl_divergence, squared_error
from limbeck.losses import Loss
from limbeck.methods import make
from limbeck.methods.features.srd import PooledProjector
from limbeck.papers.claim import Claim
from limbeck.papers.claim_study import ClaimStudy, SettingsSearch
from limbeck.papers.experiment import Figures, TaskFolder
from limbeck.papers.small_images import (
    ACCURACY,
    FASHION_CNN,
    KL,
    SECONDS,
    load_teacher,
    share_teachers,
    train_student,
)
from limbeck.recipe import Stage

SETTING = replace(
    FASHION_CNN, one_teacher=True, batch_size=32, quick={**FASHION_CNN.quick, "epochs": 8, "teacher_seconds": 5.0}
)
ARMS = {
    "alone": "labels only",
    "kd": "labels and soft targets",
    "squared error": "srd without BatchNorm, with squared errors of the same projector",
    "log_sum": "srd, the form for CNNs",
    "correlation": "srd, the form for transformers",
}


def match_squared(teacher: Any, *, weight: float = 2.0) -> Stage:
    """The losses of srd with squared errors, without BatchNorm."""
    hint = Loss(squared_error, student="features", teacher="features", head=PooledProjector())
    return Stage(Loss(cross_entropy) + Loss(kl_divergence) + weight * hint, teacher=teacher)


def train_arm(
    folder: TaskFolder, *, arm: str, seed: int, quick: bool, development: bool = False, lr: float | None = None,
    **settings: Any,
) -> Figures:  # fmt: skip
    """Train a student by one of the arms."""
    setting = SETTING.at(quick, development=development, lr=lr)
    teacher = load_teacher(folder, setting, seed)
    layers = {"teacher": teacher, "at": "features", "student_at": "features"}
    recipes = {
        "alone": lambda: make("supervised"),
        "kd": lambda: make("hinton", teacher=teacher, **settings),
        "squared error": lambda: match_squared(teacher, **settings),
    }
    recipe = recipes.get(arm, lambda: make("srd", **layers, form=arm, **settings))
    return train_student(recipe(), setting, seed=seed, teacher=teacher)


RATES = [{"lr": lr} for lr in (5e-3, 1e-2, 2e-2)]
SOFT = [
    {"lr": 5e-3, "temperature": 4.0, "weight": 0.9},
    *({"lr": lr, "temperature": 2.0, "weight": 0.5} for lr in (5e-3, 1e-2)),
]
SETTINGS = {"alone": RATES, "kd": SOFT, **dict.fromkeys(("squared error", "log_sum", "correlation"), RATES)}
STUDY = ClaimStudy(
    "images", "Do a projector, BatchNorm and a soft maximum make a feature loss that beats soft targets?", ARMS,
    train_arm, (ACCURACY, KL, SECONDS),
    [
        Claim.of_difference("log_sum", "alone", ACCURACY),
        Claim.of_difference("log_sum", "kd", ACCURACY),
        Claim.of_difference("log_sum", "squared error", ACCURACY),
        Claim.of_difference("correlation", "kd", ACCURACY),
    ],
    {"quick": 4.5, "full": 20.0}, **share_teachers(SETTING), search=SettingsSearch(SETTINGS, ACCURACY),
)  # fmt: skip
TITLE = (
    "Miles and Mikolajczyk, Understanding the Role of the Projector in Knowledge Distillation, 2023, arXiv:2303.11098"
)
CLAIM = (
    "A linear projector, BatchNorm of features and the logarithm of a sum of powers are enough for a strong student."
)
EXPERIMENTS = (STUDY.experiment(),)
