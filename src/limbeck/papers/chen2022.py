"""Chen et al., 2022, arXiv:2203.14001: SimKD, a student with the classifier of its teacher, on Fashion-MNIST."""

from __future__ import annotations

from typing import Any

from limbeck.methods import make
from limbeck.models import count_parameters
from limbeck.papers.claim import Claim, Figure
from limbeck.papers.claim_study import ClaimStudy, SettingsSearch
from limbeck.papers.experiment import Figures, TaskFolder
from limbeck.papers.small_images import (
    ACCURACY,
    AGREEMENT,
    SECONDS,
    ImageSetting,
    load_teacher,
    make_network,
    measure_network,
    share_teachers,
    train_network,
)
from limbeck.recipe import Optimizer

SETTING = ImageSetting(
    "fashion_mnist", 10_000, 2000, ("resnet8", {"width": 16}), ("resnet8", {"width": 4}), 8, 20,
    student_images=3000, optimizer=Optimizer("adamw", lr=5e-3, warmup=0.05), teacher_seconds=110.0,
    one_teacher=True,
    quick={
        "train": 2000, "test": 1000, "student_images": 1000, "teacher_epochs": 5, "epochs": 7, "batch_size": 32,
        "teacher_seconds": 9.0,
    },
)  # fmt: skip
"""Residual networks: as the paper's, their logits are a linear layer of averaged maps."""
LARGER = ("resnet8", {"width": 8})
"""About as many parameters as the student that SimKD ships."""
ARMS = {
    "alone": "labels",
    "kd": "plain KD",
    "simkd": "the last maps of the teacher, and its classifier, r = 2",
    "kd, as large": "plain KD for a student with about as many parameters as SimKD ships",
}
PARAMETERS = Figure("parameters", "parameters", "k", lower_is_better=True)


def train_arm(
    folder: TaskFolder, *, arm: str, seed: int, quick: bool, development: bool = False, lr: float | None = None,
    **settings: Any,
) -> Figures:  # fmt: skip
    """Train a student, and measure what is shipped."""
    setting = SETTING.at(quick, development=development, lr=lr)
    teacher = load_teacher(folder, setting, seed)
    recipes = {
        "alone": lambda: make("supervised"),
        "kd": lambda: make("hinton", teacher=teacher, **settings),
        "simkd": lambda: make("simkd", teacher=teacher, at="layer3", student_at="layer3"),
    }
    student = make_network(LARGER if arm == "kd, as large" else setting.student, setting, seed)
    recipe = recipes[arm.removesuffix(", as large")]()
    shipped, seconds = train_network(student, recipe, setting, seed=seed, epochs=setting.epochs)
    size = count_parameters(shipped) / 1000
    return {**measure_network(shipped, setting, teacher), "seconds": seconds, "parameters": size}


RATES = [{"lr": lr} for lr in (1e-2, 2e-2, 4e-2)]
SOFT = [
    {"lr": 2e-2, "temperature": 4.0, "weight": 0.9},
    *({"lr": lr, "temperature": 2.0, "weight": 0.5} for lr in (2e-2, 4e-2)),
]
STUDY = ClaimStudy(
    "images",
    "Is a student with its teacher's classifier better than one that learned from soft targets?",
    ARMS,
    train_arm,
    (ACCURACY, AGREEMENT, PARAMETERS, SECONDS),
    [
        Claim.of_difference("simkd", "kd", ACCURACY, paper=3.66),
        Claim.of_difference("simkd", "alone", ACCURACY, paper=4.99),
        Claim.of_difference("simkd", "kd, as large", ACCURACY),
    ],
    {"quick": 4, "full": 50},
    **share_teachers(SETTING),
    search=SettingsSearch({"alone": RATES, "kd": SOFT, "simkd": RATES, "kd, as large": SOFT}, ACCURACY),
)
TITLE = "Chen et al., Knowledge Distillation with the Reused Teacher Classifier, 2022, arXiv:2203.14001"
CLAIM = (
    "A student that learns the last features of its teacher alone, and uses its classifier, is better than with plain "
    "KD, at the price of a projector (CIFAR-100, ResNet-32x4 to ResNet-8x4: 78.08 % beside 74.42 % and 73.09 %)."
)
EXPERIMENTS = (STUDY.experiment(),)
