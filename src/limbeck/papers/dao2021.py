"""Dao et al., 2021, arXiv:2104.09732: cross-fitted and corrected teachers, for small forests and for perceptrons."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.methods import make
from limbeck.methods.teachers.semiparametric import correct_logits
from limbeck.optional_imports import import_optional, install_command, is_installed
from limbeck.papers.claim import Claim, Figure
from limbeck.papers.claim_study import ClaimStudy, SettingsSearch
from limbeck.papers.experiment import ExperimentScale, Figures, TaskFolder
from limbeck.papers.small_images import (
    ACCURACY,
    FASHION_MLP,
    NLL,
    SECONDS,
    load_teacher,
    share_teachers,
    train_student,
)

TITLE = "Dao, Kamath, Syrgkanis and Mackey, Knowledge Distillation as Semiparametric Inference, 2021, arXiv:2104.09732"
CLAIM = (
    "A teacher that labels its own training examples is too sure. A student learns more from teachers that never saw "
    "the example (cross-fitting), and from targets that the label corrects."
)

# --- forests, as for the tables of the paper ------------------------------------------------------------------------

FORESTS = {
    "alone": "a tree of labels",
    "kd": "a tree of the log odds of a forest on the same examples",
    "cross-fitted": "a tree of the log odds of forests that never saw the example, 10 folds",
    "corrected": "the same, and the label corrects the log odds",
}
FOLDS, TRAIN, DEVELOPMENT = 10, 600, 300
AUC = Figure("auc", "AUC", "%")
SMALLEST = 0.01
"""Probabilities of a forest are at least this and at most 1 minus this, as in the authors' code."""


def _sklearn(module: str) -> Any:
    return import_optional(f"sklearn.{module}", extra="sklearn", purpose="This experiment")


def draw_digits(seed: int, *, development: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Split the digits of scikit-learn into inputs and labels (from 5 to 9, or below) for training and for a test.

    The first 300 of a fixed order are the test of the development data, and in no other split.
    """
    data = _sklearn("datasets").load_digits()
    x, y = torch.as_tensor(data.data), (torch.as_tensor(data.target) >= 5).long()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(10**6))
    held_out, rest = order[:DEVELOPMENT], order[DEVELOPMENT:]
    rest = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))]
    train, test = rest[:TRAIN], held_out if development else rest[TRAIN:]
    return x[train], y[train], x[test], y[test]


def label_examples(
    x: Float[Tensor, "n width"], y: Int[Tensor, " n"], *, folds: int, trees: int, seed: int
) -> Float[Tensor, "n 2"]:
    """The log-probabilities of a forest for its training examples, or of one for each fold that never saw them."""
    forest = _sklearn("ensemble").RandomForestClassifier
    log_p = torch.zeros(len(y), 2)
    own = torch.arange(len(y)) % folds
    for fold in range(folds):
        learned = (own != fold) | (folds == 1)
        teacher = forest(trees, random_state=1000 + seed + fold).fit(x[learned].numpy(), y[learned].numpy())
        p = torch.as_tensor(teacher.predict_proba(x[own == fold].numpy())).float()
        log_p[own == fold] = p.clamp(SMALLEST, 1 - SMALLEST).log()
    return log_p


def fit_tree(
    folder: TaskFolder, *, arm: str, seed: int, quick: bool, development: bool = False, leaf: int = 1,
    bound: float = 0.1,
) -> Figures:  # fmt: skip
    """Fit a student of one tree, and measure the area under its ROC curve, and the teacher's on the test data."""
    del folder
    ensemble = _sklearn("ensemble")
    x, y, x_test, y_test = draw_digits(seed, development=development)
    options = {"n_estimators": 1, "max_features": "sqrt", "min_samples_leaf": leaf, "random_state": seed}
    if arm == "alone":
        tree = ensemble.RandomForestClassifier(**options).fit(x.numpy(), y.numpy())
        scores = tree.predict_proba(x_test.numpy())[:, 1]
    else:
        log_p = label_examples(x, y, folds=1 if arm == "kd" else FOLDS, trees=100 if quick else 500, seed=seed)
        target = correct_logits(log_p, labels=y, bound=bound if arm == "corrected" else 0.0)
        tree = ensemble.RandomForestRegressor(**options)
        scores = tree.fit(x.numpy(), (target[:, 1] - target[:, 0]).numpy()).predict(x_test.numpy())
    return {"auc": 100 * _sklearn("metrics").roc_auc_score(y_test.numpy(), scores)}


def describe_forests(scale: ExperimentScale) -> str:
    """Data and models in a sentence."""
    return (
        f"digits of scikit-learn (8 x 8 pixels), 5 to 9 against the others: {TRAIN} training and "
        f"{1797 - DEVELOPMENT - TRAIN} test examples, others for each seed; teachers are forests of "
        f"{scale.pick(100, 500)} trees, students one tree."
    )


def why_skipped(scale: ExperimentScale) -> str:
    """The reason why the forests are skipped: scikit-learn is missing."""
    del scale
    return "" if is_installed("sklearn") else f"Install scikit-learn: {install_command('sklearn')}."


LEAVES = [{"leaf": leaf} for leaf in (1, 3, 10, 30)]
TREES = ClaimStudy(
    "forests", "Does a tree learn more from forests that never saw the example?", FORESTS, fit_tree, (AUC,),
    [
        Claim.of_difference("cross-fitted", "alone", AUC, paper=15.8),
        Claim.of_difference("cross-fitted", "kd", AUC, paper=1.0),
        Claim.of_difference("corrected", "kd", AUC, paper=1.1),
        Claim.of_difference("corrected", "cross-fitted", AUC, paper=0.1),
    ],
    {"quick": 1.0, "full": 5.0}, skip=why_skipped, describe=describe_forests,
    search=SettingsSearch(
        {
            "alone": LEAVES, "kd": LEAVES, "cross-fitted": LEAVES,
            "corrected": [{"leaf": leaf, "bound": bound} for leaf in (3, 10) for bound in (0.01, 0.1)],
        },
        AUC,
    ),
)  # fmt: skip

# --- perceptrons, by the method -------------------------------------------------------------------------------------

SETTING = replace(
    FASHION_MLP, train=4000, student_images=0, teacher=("mlp", {"hidden": [200, 200]}), teacher_epochs=20, epochs=30,
    quick={"train": 1000, "teacher_epochs": 15, "epochs": 25, "teacher_seconds": 1.0},
)  # fmt: skip
"""Teacher and student learn the same images."""
ARMS = {
    "alone": "labels",
    "kd": "labels and the soft targets of a teacher of the same images",
    "cross-fitted": "labels and teachers that never saw the image, 3 folds at scale quick and 5 at full",
    "corrected": "the same, and the label corrects the teachers",
}


def train_arm(
    folder: TaskFolder, *, arm: str, seed: int, quick: bool, development: bool = False, lr: float | None = None,
    **settings: Any,
) -> Figures:  # fmt: skip
    """Train the student of one arm and seed, and the teachers of its folds."""
    setting = SETTING.at(quick, development=development, lr=lr)
    teacher = load_teacher(folder, setting, seed)
    folds: dict[str, Any] = {"folds": 3 if quick else 5, "teacher_epochs": setting.teacher_epochs}
    recipes = {
        "alone": lambda: make("supervised"),
        "kd": lambda: make("hinton", teacher=teacher, **settings),
        "cross-fitted": lambda: make("semiparametric", teacher=teacher, bound=0.0, **folds, **settings),
        "corrected": lambda: make("semiparametric", teacher=teacher, **folds, **settings),
    }
    return train_student(recipes[arm](), setting, seed=seed, teacher=teacher)


RATES = [{"lr": lr} for lr in (1e-3, 2e-3, 4e-3)]
SOFT = [
    {"lr": lr, "temperature": t, "weight": w} for lr, t, w in ((4e-3, 4.0, 0.9), (2e-3, 2.0, 0.5), (4e-3, 2.0, 0.5))
]
CORRECTED = [
    {"lr": lr, "temperature": 2.0, "weight": 0.5, "bound": c} for lr, c in ((2e-3, 0.01), (4e-3, 0.01), (4e-3, 0.1))
]
PERCEPTRONS = ClaimStudy(
    "images", "Does a perceptron learn more from teachers that never saw the image?", ARMS, train_arm,
    (ACCURACY, NLL, SECONDS),
    [
        Claim.of_difference("cross-fitted", "alone", ACCURACY),
        Claim.of_difference("cross-fitted", "kd", ACCURACY),
        Claim.of_difference("corrected", "kd", ACCURACY),
        Claim.of_difference("corrected", "cross-fitted", ACCURACY),
        Claim.of_difference("cross-fitted", "kd", NLL),
    ],
    {"quick": 2.5, "full": 25.0}, **share_teachers(SETTING),
    search=SettingsSearch({"alone": RATES, "kd": SOFT, "cross-fitted": SOFT, "corrected": CORRECTED}, ACCURACY),
)  # fmt: skip
EXPERIMENTS = (TREES.experiment(), PERCEPTRONS.experiment())
