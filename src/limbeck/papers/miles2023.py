"""Miles and Mikolajczyk, 2023, arXiv:2303.11098: a projector, normalization, and a soft maximum of errors."""

from __future__ import annotations

from functools import partial

from limbeck.functional import cross_entropy, kl_divergence, squared_error
from limbeck.losses import Loss
from limbeck.methods import make
from limbeck.methods.features.srd import PooledProjector
from limbeck.papers.claim import Claim
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import Figures, TaskFolder
from limbeck.papers.small_images import (
    ACCURACY,
    FASHION_CNN,
    KL,
    SECONDS,
    load_teacher,
    teacher_rows,
    teacher_tasks,
    train_student,
)
from limbeck.recipe import Stage

ARMS = {
    "alone": "labels only",
    "kd": "labels and soft targets, T = 4",
    "squared error": "srd without BatchNorm, with squared errors of the same projector",
    "log_sum": "srd, the form for CNNs",
    "correlation": "srd, the form for transformers",
}


def train_arm(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Train a student by one of the arms."""
    setting = FASHION_CNN.at(quick)
    teacher = load_teacher(folder, setting, seed)
    if arm == "alone":
        return train_student(make("supervised"), setting, seed=seed, teacher=teacher)
    if arm == "kd":
        return train_student(make("hinton", teacher=teacher), setting, seed=seed, teacher=teacher)
    if arm == "squared error":
        hint = Loss(squared_error, student="features", teacher="features", head=PooledProjector())
        stage = Stage(Loss(cross_entropy) + Loss(kl_divergence) + 2.0 * hint, teacher=teacher)
        return train_student(stage, setting, seed=seed, teacher=teacher)
    recipe = make("srd", teacher=teacher, at="features", student_at="features", form=arm)
    return train_student(recipe, setting, seed=seed, teacher=teacher)


STUDY = ClaimStudy(
    "images", "Do a projector, BatchNorm and a soft maximum make a feature loss that beats soft targets?", ARMS,
    train_arm, (ACCURACY, KL, SECONDS),
    [
        Claim.of_difference("log_sum", "alone", ACCURACY),
        Claim.of_difference("log_sum", "kd", ACCURACY),
        Claim.of_difference("log_sum", "squared error", ACCURACY),
        Claim.of_difference("correlation", "kd", ACCURACY),
    ],
    {"quick": 5.0, "full": 20.0}, shared=partial(teacher_tasks, FASHION_CNN), requires=FASHION_CNN.teacher_of,
    rows=partial(teacher_rows, FASHION_CNN), skip=FASHION_CNN.why_skipped,
)  # fmt: skip
TITLE = (
    "Miles and Mikolajczyk, Understanding the Role of the Projector in Knowledge Distillation, 2023, arXiv:2303.11098"
)
CLAIM = (
    "A linear projector, BatchNorm of features and the logarithm of a sum of powers are enough for a strong student."
)
EXPERIMENTS = (STUDY.experiment(),)
