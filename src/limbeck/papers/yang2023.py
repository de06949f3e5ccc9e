"""Yang, Kong and Kim, 2023, arXiv:2308.04061: robust students from 100 labels and a semi-supervised teacher, MNIST."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data import ArrayDataset
from limbeck.methods import make
from limbeck.papers.claim import Claim
from limbeck.papers.claim_study import ClaimStudy, Results, SettingsSearch
from limbeck.papers.experiment import ExperimentScale, Figures, Row, TaskFolder, load_weights, save_weights
from limbeck.papers.mtard import BOTH, CLEAN, EPSILON, ROBUST, STEPS, measure
from limbeck.papers.small_images import FASHION_MLP, SECONDS, ImageSetting, images_of, make_network, train_network
from limbeck.recipe import Optimizer, Recipe
from limbeck.task_runner import WorkItem

LABELED, COPIES = 10, 5
"""The labeled images of a class, and how often each is in an epoch, so that every batch has some."""
SETTING = replace(
    FASHION_MLP, data="mnist", train=6000, test=2000, teacher=("mlp", {"hidden": [200], "dropout": 0.5}),
    student=("mlp", {"hidden": [100]}), teacher_epochs=40, epochs=30, batch_size=128,
    optimizer=Optimizer("adamw", lr=5e-3, warmup=0.05),
    quick={"train": 1000, "test": 400, "teacher_epochs": 20, "epochs": 7},
)  # fmt: skip
ARMS = {
    "alone": "TRADES with the labeled images alone (no teacher, no unlabeled images)",
    "rst": "RST: TRADES with the teacher's most likely classes as labels",
    "semi-trades": "the teacher's soft predictions, and TRADES for all images (adaptive=False)",
    "awr": "the adaptive weight, with the teacher's most likely classes as smoothed labels",
    "srst-awr": "all of it: labels, soft predictions and the adaptive weight",
}


def mask_labels(setting: ImageSetting, seed: int, teacher: nn.Module | None = None) -> ArrayDataset:
    """The images of a setting with few labels; or with those that a teacher gives to the others.

    Args:
        setting: The setting.
        seed: The seed that chooses the labeled images, equally many of each class.
        teacher: The teacher whose most likely class is the label of each other image. Without it they have none.
    """
    images = images_of(setting)
    batch = images.train.take(torch.arange(len(images.train)))
    truth: Tensor = batch.labels  # type: ignore[assignment]
    order = torch.randperm(len(truth), generator=torch.Generator().manual_seed(seed))
    first = torch.cat([order[truth[order] == label][:LABELED] for label in truth.unique()])
    others = torch.ones(len(truth), dtype=torch.bool).index_fill(0, first, False).nonzero()[:, 0]
    labels = truth.new_full((len(others),), -100)
    if teacher is not None:
        with torch.no_grad():
            labels = teacher(images.preprocess(batch.rows(others))).argmax(1)
    inputs: Tensor = batch.inputs
    whole = torch.cat([inputs[first].repeat(COPIES, *[1] * (inputs.ndim - 1)), inputs[others]])
    return ArrayDataset(whole, torch.cat([truth[first].repeat(COPIES), labels]))


def teacher_task(seed: int) -> tuple[str, ...]:
    """The task that trains the teacher of a seed."""
    return (f"teacher/seed-{seed}",)


def train_teacher(folder: TaskFolder, *, seed: int, quick: bool) -> Figures:
    """Train a teacher with few labels, in place of FixMatch a mean teacher, and save it."""
    setting = SETTING.at(quick)
    recipe = make("mean_teacher", decay=0.95)
    net, _ = train_network(
        make_network(setting.teacher, setting, 1000 + seed), recipe, setting, seed=seed, epochs=setting.teacher_epochs,
        examples=mask_labels(setting, seed),
    )  # fmt: skip
    save_weights(net, folder)
    return measure(net, setting, seed)


def make_recipe(arm: str, teacher: nn.Module, **settings: Any) -> Recipe:
    """The recipe of an arm. All robust arms have the same attack."""
    attack: dict[str, Any] = {"epsilon": EPSILON, "attack_steps": STEPS, **settings}
    if arm in ("alone", "rst"):
        return make("arow", weighting="none", smoothing=0.0, **attack)
    own: dict[str, dict[str, Any]] = {
        "semi-trades": {"adaptive": False}, "awr": {"soft_weight": 0.0}, "srst-awr": {},
    }  # fmt: skip
    return make("srst_awr", teacher=teacher, **{**attack, **own[arm]})


def train_arm(
    folder: TaskFolder, *, arm: str, seed: int, quick: bool, development: bool = False, **settings: Any
) -> Figures:
    """Train one student with one seed, and measure it."""
    setting = SETTING.at(quick, development=development)
    teacher = load_weights(make_network(setting.teacher, setting, 0), folder, teacher_task(seed)[0])
    examples = mask_labels(setting, seed, teacher if arm in ("rst", "awr") else None)
    student, seconds = train_network(
        make_network(setting.student, setting, seed), make_recipe(arm, teacher, **settings), setting, seed=seed,
        epochs=setting.epochs, examples=examples,
    )  # fmt: skip
    return {**measure(student, setting, seed), "seconds": seconds}


def _tasks(scale: ExperimentScale) -> list[WorkItem]:
    return [
        WorkItem(teacher_task(seed)[0], partial(train_teacher, seed=seed, quick=scale.quick), (), 2.0)
        for seed in scale.seeds
    ]


def _rows(scale: ExperimentScale, results: Results) -> list[Row]:
    teachers = [results[teacher_task(seed)[0]] for seed in scale.seeds]
    return [
        Row(f"the teacher: {figure.title}", [one[figure.key] for one in teachers], "%", lower_is_better=False)
        for figure in (CLEAN, ROBUST)
    ]


def _describe(scale: ExperimentScale) -> str:
    own = SETTING.at(scale.quick)
    return (
        f"MNIST: {10 * LABELED} labeled images among {own.train:,}, a teacher of 200 units that is a mean teacher, "
        f"students of 100 units, {own.epochs} epochs, attacks of {STEPS} steps with changes of at most {EPSILON} of "
        f"the range of a pixel; {own.test:,} test images, attacked with 20 steps."
    )


WEIGHTS = [{"weight": weight} for weight in (3.0, 10.0, 30.0)]
STUDY = ClaimStudy(
    "few-labels", "Do soft predictions and an adaptive weight make a student robust from few labels?", ARMS,
    train_arm, (CLEAN, ROBUST, BOTH, SECONDS),
    [
        Claim.of_difference("srst-awr", "rst", ROBUST),
        Claim.of_difference("srst-awr", "rst", CLEAN, paper=4.79),
        Claim.of_difference("srst-awr", "awr", ROBUST, paper=1.64),
        Claim.of_difference("srst-awr", "semi-trades", ROBUST),
        Claim.of_difference("srst-awr", "alone", ROBUST),
    ],
    {"quick": 1.5, "full": 20.0}, shared=_tasks, requires=teacher_task, rows=_rows, skip=SETTING.why_skipped,
    describe=_describe,
    search=SettingsSearch(dict.fromkeys(ARMS, WEIGHTS), BOTH),
)  # fmt: skip
TITLE = (
    "Yang, Kong and Kim, Enhancing Adversarial Robustness in Low-Label Regime via Adaptively Weighted Regularization "
    "and Knowledge Distillation, 2023, arXiv:2308.04061"
)
CLAIM = (
    "With few labels, a semi-supervised teacher's soft predictions and a regularization that weighs each image make a "
    "student more accurate and more robust than the teacher's hard labels (CIFAR-10, 4,000 labels: 84.56 % clean "
    "beside 79.77 % of RST)."
)
EXPERIMENTS = (STUDY.experiment(),)
