"""Pham et al. (2022): rounds of self-distillation, their accuracy, and the sharpness of the minima."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial

import torch

from limbeck.data import ArrayDataset, Dataset
from limbeck.methods import make
from limbeck.metrics import sharpness
from limbeck.papers.claim import Claim, Figure
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import ExperimentScale, Figures, Row, TaskFolder, load_weights, save_weights
from limbeck.papers.small_images import (
    ACCURACY,
    FASHION_MLP,
    NLL,
    SECONDS,
    images_of,
    make_network,
    measure_network,
    run_recipe,
    student_images,
)
from limbeck.task_runner import WorkItem

TITLE = "Pham, Cho, Joshi and Hegde, Revisiting Self-Distillation, 2022, arXiv:2206.08491"
CLAIM = (
    "A student of its teacher's architecture is better than the teacher, and lies in a flatter minimum; later rounds "
    "add little."
)
TOP = Figure("top", "largest eigenvalue", "", lower_is_better=True)
TRACE = Figure("trace", "trace of the Hessian", "", lower_is_better=True)
SETTING = replace(
    FASHION_MLP, student=("mlp", {"hidden": [50, 50]}), teacher=("mlp", {"hidden": [50, 50]}), train=4000,
    student_images=0, teacher_epochs=40, quick={"train": 1500, "teacher_epochs": 20, "epochs": 20},
)  # fmt: skip
"""Teacher and student are alike, and learn from the same images."""
NOISE = 0.2
"""The share of images with a random label."""
ARMS = {
    "alone": "labels, of which 20 % are random",
    "round 1": "the same labels, and a teacher of the same architecture that learned from them: T = 4, w = 0.7",
    "round 2": "one more generation",
    "round 3": "two more generations",
    "smoothing": "labels with the smoothing 0.1, a regularization without a teacher",
}
ROUNDS = {"round 1": 1, "round 2": 2, "round 3": 3}
_MEASURED = 400
"""Images for the Hessian, the first of those that were learned."""


@cache
def load_noisy_images(quick: bool) -> Dataset:
    """The training images, of which a fifth has a label that was drawn at random."""
    clean = student_images(SETTING.at(quick))
    batch = clean.take(torch.arange(len(clean)))
    draw = torch.Generator().manual_seed(0)
    labels = torch.as_tensor(batch.labels)
    wrong = torch.rand(len(labels), generator=draw) < NOISE
    other = torch.randint(10, (len(labels),), generator=draw)
    return ArrayDataset(batch.inputs, torch.where(wrong, other, labels))


def _task(seed: int) -> str:
    return f"self-distillation/teacher/seed-{seed}"


def train_teacher(folder: TaskFolder, *, seed: int, quick: bool) -> Figures:
    """Train the teacher of the first round."""
    setting = SETTING.at(quick)
    net = make_network(setting.teacher, setting, 1000 + seed)
    run_recipe(
        net, make("supervised"), setting, seed=1000 + seed, epochs=setting.epochs, examples=load_noisy_images(quick)
    )
    save_weights(net, folder)
    return measure_network(net, setting)


def train_arm(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Train the rounds of one arm and seed, and measure the last student."""
    setting, images = SETTING.at(quick), load_noisy_images(quick)
    teacher = load_weights(make_network(setting.teacher, setting, 0), folder, _task(seed))
    recipe = make("supervised")
    if arm == "smoothing":
        recipe = make("label_smoothing", smoothing=0.1)
    elif arm in ROUNDS:
        recipe = make("born_again", teacher=teacher, generations=ROUNDS[arm], temperature=4.0, weight=0.7)
    student = make_network(setting.student, setting, seed)
    run, seconds = run_recipe(student, recipe, setting, seed=seed, epochs=setting.epochs, examples=images)
    some, preprocess = images.select(torch.arange(_MEASURED)), images_of(setting).preprocess
    flat = sharpness(run.student, some, preprocess=preprocess, iterations=50, tolerance=5e-3, probes=15)
    figures = measure_network(run.student, setting)
    return {**figures, "seconds": seconds, "top": flat.top_eigenvalue, "trace": flat.trace}


def _teachers(scale: ExperimentScale) -> list[WorkItem]:
    return [
        WorkItem(_task(seed), partial(train_teacher, seed=seed, quick=scale.quick), (), 2.0) for seed in scale.seeds
    ]


def _rows(scale: ExperimentScale, results: Mapping[str, Figures]) -> list[Row]:
    values = [results[_task(seed)]["accuracy"] for seed in scale.seeds]
    return [Row("the teacher of round 1: accuracy", values, "%", lower_is_better=False)]


STUDY = ClaimStudy(
    name="self-distillation",
    title="Is a student like its teacher better and flatter, and do rounds help?",
    arms=ARMS,
    train=train_arm,
    figures=(ACCURACY, NLL, TOP, TRACE, SECONDS),
    claims=(
        Claim.of_difference("round 1", "alone", ACCURACY),
        Claim.of_difference("round 1", "smoothing", ACCURACY),
        Claim.of_difference("round 1", "alone", TOP, sentence="round 1 is flatter than alone: largest eigenvalue"),
        Claim.of_difference("round 1", "alone", TRACE, sentence="round 1 is flatter than alone: trace"),
        Claim.of_equality("round 3", "round 1", ACCURACY, margin=1.0, sentence="round 3 like round 1, within 1 point"),
    ),
    seconds={"quick": 4.0, "full": 20.0},
    shared=_teachers,
    requires=lambda seed: (_task(seed),),
    rows=_rows,
    skip=SETTING.why_skipped,
    describe=SETTING.describe,
)
EXPERIMENTS = (STUDY.experiment(),)
