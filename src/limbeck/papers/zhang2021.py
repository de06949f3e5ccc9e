"""Zhang et al. (2021): a teacher that learns beside its student, with guided modules on their layers."""

from __future__ import annotations

from dataclasses import replace

from limbeck.methods import make
from limbeck.papers.claim import Claim
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import Figures, TaskFolder
from limbeck.papers.small_images import ACCURACY, FASHION_MLP, KL, PREPARED_FIGURES, make_network, train_prepared
from limbeck.recipe import Recipe

TITLE = (
    "Zhang, Zhang, Li, Zeng and Ge, Student Network Learning via Evolutionary Knowledge Distillation, 2021, "
    "arXiv:2103.13811"
)
CLAIM = (
    "A teacher that learns beside its student, with guided modules, teaches it more than one that was trained before."
)
SETTING = replace(
    FASHION_MLP, student=("mlp", {"hidden": [20, 20]}), teacher=("mlp", {"hidden": [256, 256]}), train=4000,
    student_images=0, teacher_epochs=40, quick={"train": 1500, "teacher_epochs": 20, "epochs": 20},
)  # fmt: skip
"""Teacher and student learn from the same images, for as many epochs."""
ARMS = {
    "alone": "labels",
    "kd": "soft targets at T = 4 and labels, with equal weights; the teacher was trained before, for as many epochs",
    "no guides": "evolutionary without guided modules",
    "evolutionary": "with guided modules on both hidden layers (weight 0.3)",
}


def train_arm(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Train the teacher and the student of one arm and seed."""
    del folder
    setting = SETTING.at(quick)
    if arm == "alone":
        return train_prepared(make("supervised"), setting, seed=seed)
    teacher = make_network(setting.teacher, setting, 0)
    if arm == "kd":
        recipe: Recipe = make(
            "early_stopped_teacher", teacher=teacher, share=1.0, teacher_epochs=setting.epochs,
            settings={"temperature": 4.0, "weight": 0.5},
        )  # fmt: skip
        return train_prepared(recipe, setting, seed=seed, teacher="early-stopped")
    layers = ["layer1", "layer2"]
    recipe = make(
        "evolutionary",
        teacher=teacher,
        at=layers,
        student_at=layers,
        guide_weight=0.3 if arm == "evolutionary" else 0.0,
    )
    return train_prepared(recipe, setting, seed=seed, teacher="evolving")


STUDY = ClaimStudy(
    name="evolution",
    title="Does a teacher that learns beside its student teach it more?",
    arms=ARMS,
    train=train_arm,
    figures=PREPARED_FIGURES,
    claims=(
        Claim.of_difference("evolutionary", "kd", ACCURACY),
        Claim.of_difference("evolutionary", "alone", ACCURACY),
        Claim.of_difference("evolutionary", "no guides", ACCURACY),
        Claim.of_difference("no guides", "kd", KL, sentence="the student comes nearer to a teacher beside it: KL"),
    ),
    seconds={"quick": 6.0, "full": 40.0},
    skip=SETTING.why_skipped,
    describe=SETTING.describe,
)
EXPERIMENTS = (STUDY.experiment(),)
