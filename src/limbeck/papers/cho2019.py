"""Cho and Hariharan (2019): a teacher, or distillation, that is stopped early."""

from __future__ import annotations

from dataclasses import replace

from limbeck.methods import make
from limbeck.papers.claim import Claim
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import Figures, TaskFolder
from limbeck.papers.small_images import (
    ACCURACY,
    FASHION_MLP,
    KL,
    PREPARED_FIGURES,
    make_network,
    train_prepared,
)

TITLE = "Cho and Hariharan, On the Efficacy of Knowledge Distillation, 2019, arXiv:1910.01348"
CLAIM = (
    "A small student cannot follow a large teacher. A teacher that was trained for a third of its epochs teaches it "
    "more, and so does distillation that ends before the training does."
)
SETTING = replace(
    FASHION_MLP, student=("mlp", {"hidden": [16]}), teacher=("mlp", {"hidden": [512, 512]}), train=4000,
    student_images=0, teacher_epochs=40, quick={"train": 1500, "teacher_epochs": 25, "epochs": 25},
)  # fmt: skip
"""Teacher and student learn from the same images."""
ARMS = {
    "alone": "labels",
    "kd": "T = 4, w = 0.9; the teacher was trained for all of its epochs",
    "kd, small teacher": "the same with a teacher of 64 units a layer",
    "eskd": "kd for half of the steps, then labels",
    "early teacher": "kd; the teacher was trained for 35 % of its epochs, with its whole schedule",
    "early teacher, eskd": "both",
}


def train_arm(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Train the teacher and the student of one arm and seed."""
    del folder
    setting = SETTING.at(quick)
    if arm == "alone":
        return train_prepared(make("supervised"), setting, seed=seed)
    network = ("mlp", {"hidden": [64, 64]}) if arm == "kd, small teacher" else setting.teacher
    recipe = make(
        "early_stopped_teacher", teacher=make_network(network, setting, 0),
        share=0.35 if arm.startswith("early") else 1.0, teacher_epochs=setting.teacher_epochs,
        method="eskd" if arm.endswith("eskd") else "hinton", settings={"temperature": 4.0, "weight": 0.9},
    )  # fmt: skip
    return train_prepared(recipe, setting, seed=seed, teacher="early-stopped")


STUDY = ClaimStudy(
    name="stopping",
    title="Does a small student learn more from a teacher, or a distillation, that is stopped early?",
    arms=ARMS,
    train=train_arm,
    figures=PREPARED_FIGURES,
    claims=(
        Claim.of_difference("early teacher", "kd", ACCURACY),
        Claim.of_difference("eskd", "kd", ACCURACY),
        Claim.of_difference("early teacher", "alone", ACCURACY),
        Claim.of_difference(
            "kd, small teacher", "kd", ACCURACY, sentence="a smaller teacher over a larger one: accuracy"
        ),
        Claim.of_difference("early teacher", "kd", KL, sentence="the student comes nearer to an early teacher: KL"),
    ),
    seconds={"quick": 4.0, "full": 25.0},
    skip=SETTING.why_skipped,
    describe=SETTING.describe,
)
EXPERIMENTS = (STUDY.experiment(),)
