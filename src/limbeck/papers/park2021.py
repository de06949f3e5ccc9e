"""Park and No (2021): a teacher that was pruned and trained again teaches more."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import nn

from limbeck.methods import make
from limbeck.metrics import predict
from limbeck.papers.claim import Claim, Figure
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import Figures, TaskFolder
from limbeck.papers.small_images import (
    ACCURACY,
    FASHION_MLP,
    PREPARED_FIGURES,
    ImageSetting,
    images_of,
    load_teacher,
    make_loader,
    make_network,
    measure_network,
    run_recipe,
    student_images,
    teacher_tasks,
    train_prepared,
)

TITLE = "Park and No, Prune Your Model Before Distill It, 2021, arXiv:2109.14960"
CLAIM = "A pruned teacher teaches a student more than the whole one, because it is smoother."
ENTROPY = Figure("entropy", "entropy of the teacher", "nats")
SETTING = replace(
    FASHION_MLP, student=("mlp", {"hidden": [32]}), teacher=("mlp", {"hidden": [512, 512]}), train=4000,
    student_images=0, teacher_epochs=20,
    quick={"train": 1500, "teacher_epochs": 12, "epochs": 25, "teacher_seconds": 3.0},
)  # fmt: skip
"""Teacher and student learn from the same images."""
ROUNDS = {"pruned 36 %": 2, "pruned 59 %": 4, "pruned 79 %": 7}
ARMS = {
    "alone": "labels",
    "kd": "T = 10, w = 0.95; the teacher as it was trained",
    "kd, longer teacher": "the same, after four further trainings of the teacher without pruning",
    **{arm: f"the teacher after {rounds} rounds of pruning 20 % and training" for arm, rounds in ROUNDS.items()},
}


def train_arm(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Prepare the teacher and train the student of one arm and seed."""
    setting = SETTING.at(quick)
    if arm == "alone":
        return train_prepared(make("supervised"), setting, seed=seed)
    teacher = load_teacher(folder, setting, seed)
    settings = {"temperature": 10.0, "weight": 0.95}
    recipe = make(
        "prune_then_distill", teacher=teacher, rounds=ROUNDS.get(arm, 4), amount=0.2 if arm in ROUNDS else 1e-9,
        retrain_epochs=setting.teacher_epochs // 2, settings=settings,
    )  # fmt: skip
    recipe = make("hinton", teacher=teacher, **settings) if arm == "kd" else recipe
    student = make_network(setting.student, setting, seed)
    run, seconds = run_recipe(student, recipe, setting, seed=seed, epochs=setting.epochs)
    taught = teacher if arm == "kd" else run.models["pruned"].eval()
    return {
        **measure_network(run.student, setting, taught), "teacher": measure_network(taught, setting)["accuracy"],
        "seconds": seconds, "entropy": measure_entropy(taught, setting),
    }  # fmt: skip


def measure_entropy(network: nn.Module, setting: ImageSetting) -> float:
    """The mean entropy of the answers for the training images at temperature 1, in nats."""
    loader = make_loader(setting, student_images(setting), 0)
    logits = predict(network, loader, preprocess=images_of(setting).preprocess).student
    return float(torch.special.entr(logits.double().softmax(1)).sum(1).mean())


STUDY = ClaimStudy(
    name="pruning",
    title="Does a pruned teacher teach more than the whole one?",
    arms=ARMS,
    train=train_arm,
    figures=(*PREPARED_FIGURES, ENTROPY),
    claims=(
        Claim.of_difference("pruned 59 %", "kd", ACCURACY),
        Claim.of_difference("pruned 59 %", "kd, longer teacher", ACCURACY),
        Claim.of_difference("pruned 59 %", "alone", ACCURACY),
        Claim.of_trend(("kd, longer teacher", *ROUNDS), ENTROPY, sentence="the teacher's entropy rises with pruning"),
    ),
    seconds={"quick": 4.0, "full": 25.0},
    shared=partial(teacher_tasks, SETTING),
    requires=SETTING.teacher_of,
    skip=SETTING.why_skipped,
    describe=SETTING.describe,
)
EXPERIMENTS = (STUDY.experiment(),)
