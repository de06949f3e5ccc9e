"""Tang et al. (2020): which part of distillation helps, label smoothing, relations of classes, or sure examples."""

from __future__ import annotations

from limbeck.methods import make
from limbeck.papers.claim import Claim
from limbeck.papers.claim_study import ClaimStudy
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
    "smoothing": "label smoothing of 0.1",
    "kd": "soft targets at T = 4 with a weight of 0.9, and labels",
    "kd_pt": "how sure the teacher is of the label, at T = 1 with a weight of 0.9",
    "kd_sim": "how similar the classes are in the teacher's last layer, weight 0.9",
    "kd_topk": "the 3 largest probabilities at T = 4, the rest even, with the weight of kd",
}


def train_arm(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Train the student of one arm and seed."""
    setting = FASHION_MLP.at(quick)
    teacher = load_teacher(folder, setting, seed)
    # kd_topk has no factor T^2: weights with the proportions of kd, so that only the tail of the targets differs.
    soft = 0.9 * 16 / (0.9 * 16 + 0.1)
    recipes = {
        "alone": lambda: make("supervised"),
        "smoothing": lambda: make("label_smoothing", smoothing=0.1),
        "kd": lambda: make("hinton", teacher=teacher, temperature=4.0, weight=0.9),
        "kd_pt": lambda: make("kd_pt", teacher=teacher, temperature=1.0, weight=0.9),
        "kd_sim": lambda: make("kd_sim", teacher=teacher, weight=0.9),
        "kd_topk": lambda: make("kd_topk", teacher=teacher, k=3, temperature=4.0, weight=soft),
    }
    return train_student(recipes[arm](), setting, seed=seed, teacher=teacher)


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
    seconds={"quick": 3.0, "full": 12.0},
    **share_teachers(FASHION_MLP),
)
EXPERIMENTS = (STUDY.experiment(),)
