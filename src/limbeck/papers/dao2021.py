"""Dao et al. (2021): teachers that never saw the examples that they label, and a correction of their errors."""

from __future__ import annotations

from dataclasses import replace

from limbeck.methods import make
from limbeck.papers.claim import Claim, Figure
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import Figures, TaskFolder
from limbeck.papers.small_images import (
    ACCURACY,
    FASHION_MLP,
    NLL,
    SECONDS,
    make_network,
    measure_network,
    run_recipe,
)
from limbeck.recipe import Recipe

TITLE = "Dao, Kamath, Syrgkanis and Mackey, Knowledge Distillation as Semiparametric Inference, 2021, arXiv:2104.09732"
CLAIM = (
    "A teacher is too sure of its own training examples. A student learns more from teachers that never saw the "
    "examples that they label, and from teachers that are corrected by the labels."
)
OF_TEACHER = Figure("teacher", "accuracy of one teacher", "%", resolution=0.05)
SETTING = replace(
    FASHION_MLP, student=("mlp", {"hidden": [20, 20]}), teacher=("mlp", {"hidden": [256, 256]}), train=4000,
    student_images=0, teacher_epochs=25, quick={"train": 1500, "teacher_epochs": 12, "epochs": 25},
)  # fmt: skip
"""Teacher and student learn from the same images."""
SOFT = {"temperature": 2.0, "weight": 0.5}
ARMS = {
    "alone": "labels",
    "kd": "T = 2, w = 0.5; the teacher learned from all images of the student",
    "cross-fitted": "kd, with a teacher for each of five folds, which learned from the others",
    "corrected": "the teacher of kd, with the corrected loss",
    "cross-fitted, corrected": "both",
}


def train_arm(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Train the teachers and the student of one arm and seed."""
    del folder
    setting = SETTING.at(quick)
    student = make_network(setting.student, setting, seed)
    run, seconds = run_recipe(student, _recipe(arm, quick), setting, seed=seed, epochs=setting.epochs)
    taught = next((run.models[name] for name in ("early-stopped", "fold-0") if name in run.models), None)
    own = 0.0 if taught is None else measure_network(taught, setting)["accuracy"]
    return {**measure_network(run.student, setting), "teacher": own, "seconds": seconds}


def _recipe(arm: str, quick: bool) -> Recipe:
    if arm == "alone":
        return make("supervised")
    setting = SETTING.at(quick)
    teacher, length = make_network(setting.teacher, setting, 0), setting.teacher_epochs
    if arm == "cross-fitted":
        return make("cross_fitting", teacher=teacher, folds=5, teacher_epochs=length, settings=SOFT)
    if arm == "cross-fitted, corrected":
        return make("semiparametric", teacher=teacher, folds=5, teacher_epochs=length, **SOFT)
    return make(
        "early_stopped_teacher", teacher=teacher, share=1.0, teacher_epochs=length,
        method="hinton" if arm == "kd" else "semiparametric", settings=SOFT if arm == "kd" else {**SOFT, "folds": 1},
    )  # fmt: skip


STUDY = ClaimStudy(
    name="folds",
    title="Does a student learn more from teachers that never saw the examples that they label?",
    arms=ARMS,
    train=train_arm,
    figures=(ACCURACY, NLL, OF_TEACHER, SECONDS),
    claims=(
        Claim.of_difference("cross-fitted", "kd", ACCURACY),
        Claim.of_difference("cross-fitted", "kd", NLL),
        Claim.of_difference("corrected", "kd", ACCURACY),
        Claim.of_difference("cross-fitted", "alone", ACCURACY),
        Claim.of_difference("cross-fitted, corrected", "cross-fitted", ACCURACY),
    ),
    seconds={"quick": 4.0, "full": 30.0},
    skip=SETTING.why_skipped,
)
EXPERIMENTS = (STUDY.experiment(),)
