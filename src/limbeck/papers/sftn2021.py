"""Park, Cha et al. (2021): a teacher that learns together with branches of its student."""

from __future__ import annotations

from dataclasses import replace

from limbeck.methods import make
from limbeck.papers.claim import Claim
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import Figures, TaskFolder
from limbeck.papers.small_images import ACCURACY, FASHION_MLP, KL, PREPARED_FIGURES, make_network, train_prepared

TITLE = (
    "Park, Cha, Jeong, Kim and Han, Learning Student-Friendly Teacher Networks for Knowledge Distillation, 2021, "
    "arXiv:2102.07650"
)
CLAIM = (
    "A teacher that learned together with branches of its student teaches it more than one that learned alone, and the "
    "student comes nearer to it."
)
SETTING = replace(
    FASHION_MLP, student=("mlp", {"hidden": [24, 24]}), teacher=("mlp", {"hidden": [256, 256]}), train=4000,
    student_images=0, teacher_epochs=40, quick={"train": 1500, "teacher_epochs": 25, "epochs": 25},
)  # fmt: skip
"""Teacher and student learn from the same images, for as many epochs."""
ARMS = {
    "alone": "labels",
    "kd": "T = 4, w = 0.9; the teacher learned from labels alone",
    "sftn, no divergence": "kd; the teacher learned with a branch on its first layer, from labels",
    "sftn": "kd; the teacher learned with a branch on its first layer, from labels and the divergence (weight 3)",
}


def train_arm(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Train the teacher and the student of one arm and seed."""
    del folder
    setting = SETTING.at(quick)
    if arm == "alone":
        return train_prepared(make("supervised"), setting, seed=seed)
    network = make_network(setting.teacher, setting, 2000 + seed)
    # With both weights 0 the branch has no effect: the teacher is that of plain distillation.
    weights = {"kd": (0.0, 0.0), "sftn, no divergence": (0.0, 1.0), "sftn": (3.0, 1.0)}[arm]
    recipe = make(
        "sftn", teacher=network, at="layer1", student_at="layer1", kl_weight=weights[0], label_weight=weights[1],
        settings={"temperature": 4.0, "weight": 0.9},
    )  # fmt: skip
    return train_prepared(recipe, setting, seed=seed, teacher="student-friendly")


STUDY = ClaimStudy(
    name="branches",
    title="Does a teacher that learned with branches of the student teach it more?",
    arms=ARMS,
    train=train_arm,
    figures=PREPARED_FIGURES,
    claims=(
        Claim.of_difference("sftn", "kd", ACCURACY),
        Claim.of_difference("sftn", "alone", ACCURACY),
        Claim.of_difference("sftn", "sftn, no divergence", ACCURACY),
        Claim.of_difference("sftn", "kd", KL, sentence="the student comes nearer to its teacher: KL"),
    ),
    seconds={"quick": 5.0, "full": 25.0},
    skip=SETTING.why_skipped,
    describe=SETTING.describe,
)
EXPERIMENTS = (STUDY.experiment(),)
