"""Aguilar et al., 2019, arXiv:1910.03723: attention maps and class tokens, layer by layer, on texts of symbols."""

from __future__ import annotations

from limbeck.methods import make
from limbeck.papers.claim import Claim
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import Figures, TaskFolder
from limbeck.papers.small_transformers import (
    ACCURACY,
    ATTENTION,
    SIZES,
    draw_texts,
    load_teacher,
    make_transformer,
    measure_transformer,
    share_teachers,
    train_transformer,
)

ARMS = {
    "alone": "labels only",
    "kd": "labels and soft targets",
    "all": "all layers at once, then predictions",
    "progressive": "one layer after the other, then predictions",
    "stacked": "the same, and the layers below stay",
}
LAYERS = {"student_layers": 2, "teacher_layers": 4}


def train_arm(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Train a student of two layers by one of the arms. All arms take as many steps."""
    sizes, teacher = SIZES["quick" if quick else "full"], load_teacher(folder)
    texts, student = draw_texts(sizes.student, seed=2 + seed), make_transformer(layers=2, seed=seed)
    if arm in ("alone", "kd"):
        recipe = make("supervised") if arm == "alone" else make("hinton", teacher=teacher, temperature=1.0, weight=0.5)
    else:
        # Half of the epochs for the layers, whatever the number of stages.
        half = sizes.epochs // 2
        recipe = make(
            "internal_representations", teacher=teacher, schedule=arm, epochs=sizes.epochs - half,
            layer_epochs=max(half if arm == "all" else half // 2, 1), **LAYERS,
        )  # fmt: skip
    train_transformer(student, recipe, texts, seed=seed, epochs=sizes.epochs)
    return measure_transformer(student, draw_texts(sizes.test, seed=1), teacher, {0: 1, 1: 3})


STUDY = ClaimStudy(
    "texts", "Does a student learn more from the layers of a transformer than from its predictions?", ARMS, train_arm,
    (ACCURACY, ATTENTION),
    [
        Claim.of_difference("stacked", "alone", ACCURACY),
        Claim.of_difference("stacked", "kd", ACCURACY),
        Claim.of_difference("stacked", "all", ACCURACY),
        Claim.of_difference("stacked", "kd", ATTENTION),
    ],
    {"quick": 4.0, "full": 20.0}, **share_teachers(),
)  # fmt: skip
TITLE = (
    "Aguilar, Ling, Zhang, Yao, Fan and Guo, Knowledge Distillation from Internal Representations, 2019, "
    "arXiv:1910.03723"
)
CLAIM = "A student that learns a transformer's attention maps and class tokens is better than one of its predictions."
EXPERIMENTS = (STUDY.experiment(),)
