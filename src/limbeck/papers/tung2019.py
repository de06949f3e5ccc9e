"""Tung and Mori, 2019, arXiv:1907.09682: similarities between examples as the only knowledge, on Fashion-MNIST."""

from __future__ import annotations

from functools import partial

from limbeck.methods import make
from limbeck.papers.claim import Claim
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import Figures, TaskFolder
from limbeck.papers.small_images import (
    ACCURACY,
    FASHION_MLP,
    FIGURES,
    load_teacher,
    teacher_rows,
    teacher_tasks,
    train_student,
)

ARMS = {
    "alone": "labels",
    "kd": "hinton at T = 4 with weight 0.9",
    "sp": "labels and similarities of the last hidden layer",
    "kd and sp": "hinton and the same similarities",
}
LAYERS = {"at": "layer2", "student_at": "layer2", "weight": 3000.0}
"""The last hidden layers of both networks, 400 and 20 units wide, and the weight of the paper on CIFAR-10."""


def train_arm(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Train a student of one arm from the teacher of its seed."""
    setting = FASHION_MLP.at(quick)
    teacher = load_teacher(folder, setting, seed)
    recipes = {
        "alone": lambda: make("supervised"),
        "kd": lambda: make("hinton", teacher=teacher),
        "sp": lambda: make("similarity_preserving", teacher=teacher, **LAYERS),
        "kd and sp": lambda: make("similarity_preserving", teacher=teacher, **LAYERS, soft_weight=0.9),
    }
    return train_student(recipes[arm](), setting, seed=seed, teacher=teacher)


STUDY = ClaimStudy(
    "similarities", "Do similarities between examples teach a narrower network?", ARMS, train_arm, FIGURES,
    [
        Claim.of_difference("sp", "alone", ACCURACY),
        Claim.of_difference("sp", "kd", ACCURACY),
        Claim.of_difference("kd and sp", "kd", ACCURACY),
    ],
    {"quick": 3, "full": 12},
    shared=partial(teacher_tasks, FASHION_MLP), requires=FASHION_MLP.teacher_of,
    rows=partial(teacher_rows, FASHION_MLP), skip=FASHION_MLP.why_skipped,
)  # fmt: skip

EXPERIMENTS = (STUDY.experiment(),)
TITLE = "Tung and Mori, Similarity-Preserving Knowledge Distillation, 2019, arXiv:1907.09682"
CLAIM = "Similarities between examples teach a student more than labels alone, and more than soft targets."
