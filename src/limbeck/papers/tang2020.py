"""Tang et al. (2020): which part of distillation helps, label smoothing, relations of classes, or sure examples."""

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
    NLL,
    load_teacher,
    share_teachers,
    train_student,
)

TITLE = (
    "Tang, Shivanna, Zhao, Lin, Singh, Chi and Jain, Understanding and Improving Knowledge Distillation, 2020, "
    "arXiv:2002.03532"
)
CLAIM = (
    "Distillation helps by smoothing labels, by relations of classes and by a weight for each example; the k "
    "largest probabilities of the teacher are enough."
)

ARMS = {
    "alone": "labels",
    "smoothing": "smoothed labels",
    "kd": "soft targets and labels",
    "kd_pt": "how sure the teacher is of the label",
    "kd_sim": "how similar the classes are in the teacher's last layer",
    "kd_topk": "the 3 largest probabilities, the rest even",
}
SETTING = replace(FASHION_MLP, development_images=10_000, quick={**FASHION_MLP.quick, "epochs": 20})


def train_arm(
    folder: TaskFolder, *, arm: str, seed: int, quick: bool, development: bool = False, lr: float | None = None,
    temperature: float = 4.0, weight: float = 0.9, smoothing: float = 0.1,
) -> Figures:  # fmt: skip
    """Train the student of one arm and seed."""
    setting = SETTING.at(quick, development=development, lr=lr)
    teacher = load_teacher(folder, setting, seed)
    settings: dict[str, Any] = {"temperature": temperature, "weight": weight}
    # kd_topk has no factor T^2: its weights have the proportions of kd, so that only the tail of the targets differs.
    soft = weight * temperature**2 / (weight * temperature**2 + 1 - weight)
    recipes = {
        "alone": lambda: make("supervised"),
        "smoothing": lambda: make("label_smoothing", smoothing=smoothing),
        "kd": lambda: make("hinton", teacher=teacher, **settings),
        "kd_pt": lambda: make("kd_pt", teacher=teacher, **settings),
        "kd_sim": lambda: make("kd_sim", teacher=teacher, weight=weight),
        "kd_topk": lambda: make("kd_topk", teacher=teacher, k=3, temperature=temperature, weight=soft),
    }
    return train_student(recipes[arm](), setting, seed=seed, teacher=teacher)


SOFT = [
    {"lr": lr, "temperature": t, "weight": w} for lr, t, w in ((2e-3, 4.0, 0.9), (2e-3, 2.0, 0.5), (4e-3, 2.0, 0.5))
]
SETTINGS = {
    "alone": [{"lr": lr} for lr in (1e-3, 2e-3, 4e-3)],
    "smoothing": [{"lr": lr, "smoothing": s} for lr, s in ((2e-3, 0.1), (2e-3, 0.3), (4e-3, 0.1))],
    "kd": SOFT,
    "kd_pt": [{"lr": lr, "temperature": 1.0, "weight": w} for lr, w in ((2e-3, 0.9), (2e-3, 0.5), (4e-3, 0.5))],
    "kd_sim": [{"lr": lr, "weight": w} for lr, w in ((2e-3, 0.9), (2e-3, 0.5), (4e-3, 0.5))],
    "kd_topk": SOFT,
}
"""The first settings of each arm with a teacher are those of its card."""
STUDY = ClaimStudy(
    name="parts",
    title="Which part of distillation helps a student?",
    arms=ARMS,
    train=train_arm,
    figures=FIGURES,
    claims=(
        Claim.of_difference("smoothing", "alone", ACCURACY),
        Claim.of_difference("kd_pt", "alone", ACCURACY),
        Claim.of_difference("kd_sim", "alone", ACCURACY),
        Claim.of_difference("kd", "kd_pt", ACCURACY),
        Claim.of_difference("kd", "kd_sim", ACCURACY),
        Claim.of_difference("kd_topk", "kd", ACCURACY),
        Claim.of_difference("kd", "alone", NLL),
    ),
    seconds={"quick": 2.5, "full": 12.0},
    search=SettingsSearch(SETTINGS, ACCURACY),
    **share_teachers(SETTING),
)
EXPERIMENTS = (STUDY.experiment(),)
