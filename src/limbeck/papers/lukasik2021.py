"""Lukasik et al., 2021, arXiv:2106.10494: what distillation does to rare classes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from limbeck.data import Dataset, ShuffledLoader
from limbeck.methods import make
from limbeck.methods.logits.ada_alpha import measure_class_weights
from limbeck.metrics import Predictions, class_accuracy, predict
from limbeck.papers.claim import Claim, Figure
from limbeck.papers.claim_study import ClaimStudy, SettingsSearch
from limbeck.papers.experiment import ExperimentScale, Figures, TaskFolder, load_weights, renumbered, save_weights
from limbeck.papers.small_images import (
    ACCURACY,
    AGREEMENT,
    FASHION_MLP,
    NLL,
    ImageSetting,
    images_of,
    make_network,
    measure_network,
    train_network,
)
from limbeck.task_runner import WorkItem

SETTING = replace(
    FASHION_MLP, train=20_000, student_images=0, epochs=60, teacher_epochs=30, development_images=10_000,
    quick={"train": 10_000, "epochs": 30, "teacher_epochs": 20},
)  # fmt: skip
ARMS = {
    "alone": "labels",
    "kd": "soft targets alone",
    "kd, with labels": "soft targets and labels",
    "ada_alpha": "a weight for each class, from the teacher's margins on held-out images",
}
RARITY = 0.03
"""The rarest of ten classes has this share of the images of the most frequent; the others lie between."""
MOST = (500, 1500)
"""Images of the most frequent class, quick and full."""
HELD_OUT = 50
"""Images of each class that neither teacher nor student learns from, for the weights of ada_alpha."""
HEAD = Figure("head", "5 frequent classes", "%")
TAIL = Figure("tail", "5 rare classes", "%")
WORST = Figure("worst", "worst class", "%")


def split_images(labels: Tensor, seed: int, most: int) -> tuple[Tensor, Tensor, list[int]]:
    """Choose long-tailed training images and balanced held-out images.

    Args:
        labels: The labels of all training images.
        seed: The seed of the images, and of which classes are rare.
        most: The number of images of the most frequent class.

    Returns:
        The positions of both, and the classes from the most frequent to the rarest.
    """
    draw = torch.Generator().manual_seed(seed)
    classes = torch.randperm(10, generator=draw).tolist()
    train, held_out = [], []
    for place, label in enumerate(classes):
        own = (labels == label).nonzero()[:, 0]
        own = own[torch.randperm(len(own), generator=draw)]
        held_out.append(own[:HELD_OUT])
        train.append(own[HELD_OUT:][: round(most * RARITY ** (place / 9))])
    return torch.cat(train), torch.cat(held_out), classes


def _parts(seed: int, *, quick: bool) -> tuple[Dataset, Dataset, list[int]]:
    whole = images_of(SETTING.at(quick)).train
    train, held_out, classes = split_images(torch.as_tensor(whole.labels), seed, MOST[not quick])
    return renumbered(whole.select(train)), renumbered(whole.select(held_out)), classes


def teach(folder: TaskFolder, *, seed: int, quick: bool) -> Figures:
    """Train a teacher on long-tailed images."""
    setting, (images, _, classes) = SETTING.at(quick), _parts(seed, quick=quick)
    net = make_network(setting.teacher, setting, 1000 + seed)
    train_network(net, make("supervised"), setting, seed=1000 + seed, epochs=setting.teacher_epochs, examples=images)
    save_weights(net, folder)
    return _measure(net, None, classes, setting)


def train_arm(
    folder: TaskFolder, *, arm: str, seed: int, quick: bool, development: bool = False, lr: float | None = None,
    temperature: float = 4.0, weight: float = 1.0,
) -> Figures:  # fmt: skip
    """Train one student on long-tailed images."""
    setting = SETTING.at(quick, development=development, lr=lr)
    images, held_out, classes = _parts(seed, quick=quick)
    teacher = load_weights(make_network(setting.teacher, setting, 0), folder, _task(seed))
    if arm == "ada_alpha":
        found = _predict(teacher, held_out, setting)
        weights = measure_class_weights(found.student, torch.as_tensor(found.labels))
        recipe = make("ada_alpha", teacher=teacher, class_weights=tuple(weights.tolist()), temperature=temperature)
    elif arm == "alone":
        recipe = make("supervised")
    else:
        recipe = make("hinton", teacher=teacher, temperature=temperature, weight=weight, labels=arm != "kd")
    student = make_network(setting.student, setting, seed)
    shipped, _ = train_network(student, recipe, setting, seed=seed, epochs=setting.epochs, examples=images)
    return _measure(shipped, teacher, classes, setting)


def _predict(net: nn.Module, images: Dataset, setting: ImageSetting) -> Predictions:
    loader = ShuffledLoader(images, batch_size=500, shuffle=False)
    return predict(net, loader, preprocess=images_of(setting).preprocess)


def _measure(net: nn.Module, teacher: nn.Module | None, classes: list[int], setting: ImageSetting) -> dict[str, float]:
    by_class = 100 * class_accuracy(_predict(net, images_of(setting).test, setting))
    head, tail = (float(by_class[own].mean()) for own in (classes[:5], classes[5:]))
    return {**measure_network(net, setting, teacher), "head": head, "tail": tail, "worst": float(by_class.min())}


def _task(seed: int) -> str:
    return f"subgroups/teacher-model/seed-{seed}"


def _teachers(scale: ExperimentScale) -> list[WorkItem]:
    seconds = scale.pick(5, 20)
    return [WorkItem(_task(seed), partial(teach, seed=seed, quick=scale.quick), (), seconds) for seed in scale.seeds]


def describe_training(scale: ExperimentScale) -> str:
    """Data, networks and training in a sentence."""
    own, most = SETTING.at(scale.quick), scale.pick(*MOST)
    return (
        f"{own.data} with a long tail: {most} images of the most frequent class, {round(most * RARITY)} of the rarest, "
        f"other classes for each seed; a teacher `{own.teacher[0]} {dict(own.teacher[1])}` with {own.teacher_epochs} "
        f"epochs for each seed, students `{own.student[0]} {dict(own.student[1])}` with {own.epochs}; {own.test:,} "
        f"test images, equally many of each class; {own.describe_development().removesuffix('; ')}."
    )


SOFT = [{"lr": lr, "temperature": t} for lr, t in ((2e-3, 4.0), (2e-3, 2.0), (4e-3, 2.0))]
SETTINGS = {
    "alone": [{"lr": lr} for lr in (1e-3, 2e-3, 4e-3)],
    "kd": SOFT,
    "kd, with labels": [{**own, "weight": 0.5} for own in SOFT],
    "ada_alpha": SOFT,
}
STUDY = ClaimStudy(
    "subgroups", "Does distillation raise the accuracy at the cost of rare classes?", ARMS, train_arm,
    (ACCURACY, HEAD, TAIL, WORST, NLL, AGREEMENT),
    [
        Claim.of_difference("kd", "alone", ACCURACY),
        Claim.of_difference("alone", "kd", TAIL, sentence="kd harms the 5 rare classes: alone over kd"),
        Claim.of_difference("ada_alpha", "kd", TAIL),
        Claim.of_difference("ada_alpha", "alone", ACCURACY),
        Claim.of_difference("ada_alpha", "kd, with labels", TAIL),
    ],
    {"quick": 2.5, "full": 12}, shared=_teachers, requires=lambda seed: (_task(seed),), skip=SETTING.why_skipped,
    describe=describe_training, search=SettingsSearch(SETTINGS, ACCURACY),
)  # fmt: skip
TITLE = (
    "Lukasik, Bhojanapalli, Menon and Kumar, Teacher's pet: understanding and mitigating biases in distillation, 2021, "
    "arXiv:2106.10494"
)
CLAIM = "Distillation raises the mean accuracy and can harm rare classes; a weight for each class mends it."
EXPERIMENTS = (STUDY.experiment(),)
