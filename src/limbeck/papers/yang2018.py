"""Yang et al. (2018): a more tolerant teacher, which is worse itself, educates better students."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from limbeck.methods import make
from limbeck.metrics import predict
from limbeck.papers.claim import Claim, Figure
from limbeck.papers.claim_study import ClaimStudy, SettingsSearch
from limbeck.papers.experiment import ExperimentScale, Figures, TaskFolder
from limbeck.papers.small_images import (
    ACCURACY,
    FASHION_MLP,
    FIGURES,
    OF_TEACHER,
    ImageSetting,
    images_of,
    make_loader,
    make_network,
    measure_network,
    run_recipe,
    student_images,
    train_student,
)

TITLE = (
    "Yang, Xie, Qiao and Yuille, Knowledge Distillation in Generations: More Tolerant Teachers Educate Better "
    "Students, 2018, arXiv:1805.05551"
)
CLAIM = (
    "A teacher that keeps probability for its second choices is worse itself and educates better students of its "
    "own architecture."
)

SECOND = Figure("second", "second choice of the teacher", "%")
SETTING = replace(FASHION_MLP, development_images=10_000, quick={**FASHION_MLP.quick, "epochs": 20})
ARMS = {
    "alone": "labels",
    "kd": "born again: one generation after a plain teacher",
    "tolerant": "one generation after a teacher with the top score difference of 5 classes",
    "tolerant, 2 generations": "the same with a second generation",
}


def train_arm(
    folder: TaskFolder, *, arm: str, seed: int, quick: bool, development: bool = False, lr: float | None = None,
    difference_weight: float = 0.9, **settings: Any,
) -> Figures:  # fmt: skip
    """Train the teacher and the students of one arm and seed."""
    del folder
    setting = SETTING.at(quick, development=development, lr=lr)
    if arm == "alone":
        return train_student(make("supervised"), setting, seed=seed)
    difference = 0.0 if arm == "kd" else difference_weight
    generations = 2 if arm.endswith("generations") else 1
    recipe = make("tolerant_teacher", generations=generations, difference_weight=difference, **settings)
    run, seconds = run_recipe(
        make_network(setting.student, setting, seed), recipe, setting, seed=seed, epochs=setting.epochs
    )
    patriarch = run.models["patriarch"]
    own = measure_network(patriarch, setting)["accuracy"]
    return {
        **measure_network(run.student, setting, patriarch), "seconds": seconds, "teacher": own,
        "second": 100 * second_choice(patriarch, setting),
    }  # fmt: skip


def second_choice(network: nn.Module, setting: ImageSetting) -> float:
    """The mean of the second largest probability over the training images."""
    loader = make_loader(setting, student_images(setting), 0)
    found = predict(network, loader, preprocess=images_of(setting).preprocess)
    return float(found.student.softmax(1).topk(2, dim=1).values[:, 1].mean())


def describe_training(scale: ExperimentScale) -> str:
    """Data, networks and training in a sentence."""
    own = SETTING.at(scale.quick)
    return (
        f"{own.data}: teacher and students have the same network, `{own.student[0]} {dict(own.student[1])}`, and learn "
        f"the same {own.student_images:,} images in {own.epochs} epochs each; {own.test:,} test images; "
        f"{own.describe_development()}a teacher for each seed and arm."
    )


SOFT = [{"lr": lr, "weight": w} for lr, w in ((2e-3, 0.4), (2e-3, 0.8), (4e-3, 0.4))]
TOLERANT = [{"lr": lr, "difference_weight": eta} for lr, eta in ((2e-3, 0.9), (2e-3, 0.5), (4e-3, 0.9))]
SETTINGS = {
    "alone": [{"lr": lr} for lr in (1e-3, 2e-3, 4e-3)],
    "kd": SOFT,
    "tolerant": TOLERANT,
    "tolerant, 2 generations": TOLERANT,
}
"""0.4 and 0.9 are the defaults of the card; the teacher of an arm has its rate."""
STUDY = ClaimStudy(
    name="tolerance",
    title="Does a tolerant teacher educate better students?",
    arms=ARMS,
    train=train_arm,
    figures=(*(figure for figure in FIGURES if figure.key not in ("agreement", "kl", "seconds")), OF_TEACHER, SECOND),
    claims=(
        Claim.of_difference("tolerant", "kd", SECOND, sentence="the tolerant teacher gives more to its second choice"),
        Claim.of_difference("kd", "tolerant", OF_TEACHER, sentence="the tolerant teacher is worse itself"),
        Claim.of_difference("tolerant", "kd", ACCURACY),
        Claim.of_difference("tolerant", "alone", ACCURACY),
        Claim.of_difference("tolerant, 2 generations", "tolerant", ACCURACY),
    ),
    seconds={"quick": 6.0, "full": 30.0},
    search=SettingsSearch(SETTINGS, ACCURACY),
    skip=SETTING.why_skipped,
    describe=describe_training,
)
EXPERIMENTS = (STUDY.experiment(),)
