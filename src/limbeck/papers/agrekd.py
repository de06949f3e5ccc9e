"""Kenfack et al., 2024, arXiv:2411.14984: whether a biased ensemble loses the worst group, and AGRE-KD regains it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from limbeck.data import ArrayDataset
from limbeck.engine import distill
from limbeck.methods import make
from limbeck.models import build
from limbeck.papers.claim import Claim, Figure
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import ExperimentScale, Figures, TaskFolder, load_weights, save_weights
from limbeck.papers.small_images import ACCURACY, FASHION_MLP, SECONDS, load_images
from limbeck.recipe import Optimizer, Part
from limbeck.task_runner import WorkItem

WORST = Figure("worst", "accuracy of the worst group", "%", resolution=0.1)
TEACHERS = ("debiased", "erm-1", "erm-2")
ARMS = {
    "alone": "labels",
    "kd": "the average of a debiased teacher and two trained on labels alone",
    "kd, debiased": "the debiased teacher alone, which nobody could name without groups",
    "agre_kd": "all three, weighed against a biased model",
}
AGREEMENT = 0.97
"""How often the planted patch agrees with the label in training; one half in tests."""
_MODELS = (*TEACHERS, "biased")


class Sample(NamedTuple):
    """Images with a patch, their labels, and whether the patch agrees with the label."""

    inputs: Tensor
    labels: Tensor
    agrees: Tensor


def make_sample(part: str, *, quick: bool, seed: int, agreement: float, count: int) -> Sample:
    """Fashion-MNIST in two classes, shirts (0, 6) and pullovers or coats (2, 4), with a patch that is a shortcut."""
    splits = load_images("fashion_mnist", 4000 if quick else 8000, 2000)
    examples = splits.train if part == "train" else splits.test
    batch = examples.take(torch.arange(len(examples)))
    draw = torch.Generator().manual_seed(1000 * seed + len(part))
    classes = torch.as_tensor(batch.labels)
    upper = torch.isin(classes, torch.tensor([0, 2, 4, 6])).nonzero()[:, 0]
    rows = upper[torch.randperm(len(upper), generator=draw)[:count]]
    images = torch.as_tensor(splits.preprocess(batch)).reshape(len(examples), 28, 28)[rows].clone()
    labels = torch.isin(classes[rows], torch.tensor([2, 4])).long()
    agrees = torch.rand(len(rows), generator=draw) < agreement
    patch = torch.where(agrees, labels, 1 - labels).float()
    images[:, :4, :4] = (4 * patch - 2)[:, None, None]
    return Sample(images.flatten(1), labels, agrees)


def make_mlp(seed: int, hidden: int) -> nn.Module:
    """A perceptron for the two classes."""
    return build("mlp", inputs=784, classes=2, hidden=[hidden], seed=seed)


def train(net: nn.Module, recipe: Part, sample: Sample, *, seed: int, epochs: int) -> nn.Module:
    """Train a network on a sample."""
    data = ArrayDataset(sample.inputs, sample.labels)
    return distill(
        net, recipe, data, batch_size=64, epochs=epochs, seed=seed, optimizer=Optimizer("adamw", lr=2e-3),
        log_every=1000, accelerator="cpu", workers=1,
    ).finish().student  # fmt: skip


def debias(net: nn.Module, sample: Sample, *, seed: int) -> None:
    """Fit the last layer again on as many examples of each group (deep feature reweighting)."""
    groups = 2 * sample.labels + sample.agrees.long()
    size = int(torch.bincount(groups, minlength=4).min())
    rows = torch.cat([(groups == group).nonzero()[:size, 0] for group in range(4)])
    balanced = Sample(sample.inputs[rows], sample.labels[rows], sample.agrees[rows])
    last = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)][-1]
    stage = next(make("supervised").stages())
    train(net, replace(stage, only=last), balanced, seed=seed, epochs=60)


def teacher_task(seed: int) -> tuple[str, ...]:
    """The task that trains the teachers of a seed."""
    return (f"teachers/seed-{seed}",)


def make_teachers() -> nn.ModuleDict:
    """The untrained teachers and the biased model by name."""
    return nn.ModuleDict({name: make_mlp(500 + number, 64) for number, name in enumerate(_MODELS)})


def train_teachers(folder: TaskFolder, *, seed: int, quick: bool) -> Figures:
    """Train the teachers and the biased model of a seed on labels, and debias two of them."""
    teachers = make_teachers()
    count, epochs = (1500, 12) if quick else (4000, 20)
    figures: dict[str, float] = {}
    for number, (name, net) in enumerate(teachers.items()):
        own = 10 * seed + number
        sample = make_sample("train", quick=quick, seed=own, agreement=AGREEMENT, count=count)
        train(net, make("supervised"), sample, seed=own, epochs=epochs)
        if name == "debiased":
            debias(net, make_sample("train", quick=quick, seed=500 + own, agreement=0.5, count=400), seed=own)
        figures |= {f"{name} {key}": value for key, value in measure(net, seed, quick=quick).items()}
    save_weights(teachers, folder)
    return figures


def measure(net: nn.Module, seed: int, *, quick: bool) -> dict[str, float]:
    """The accuracy on test images, and that of the worst of the four groups (label and patch), in percent."""
    sample = make_sample("test", quick=quick, seed=seed, agreement=0.5, count=2000)
    with torch.no_grad():
        right = (net.eval()(sample.inputs).argmax(1) == sample.labels).float()
    groups = 2 * sample.labels + sample.agrees.long()
    worst = min(float(right[groups == group].mean()) for group in range(4))
    return {"accuracy": 100 * float(right.mean()), "worst": 100 * worst}


def train_arm(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Train one student on biased data, and measure it. No group is known to any arm."""
    teachers: Mapping[str, Any] = dict(load_weights(make_teachers(), folder, teacher_task(seed)[0]).items())  # type: ignore[operator]
    every = {name: teachers[name] for name in TEACHERS}
    averaged: dict[str, Any] = {"weights": "fixed", "temperature": 4.0, "weight": 1.0}
    recipes = {
        "alone": lambda: make("supervised"),
        "kd": lambda: make("multi_teacher", teacher=every, **averaged),
        "kd, debiased": lambda: make("hinton", teacher=every["debiased"], temperature=4.0, labels=False),
        "agre_kd": lambda: make("agre_kd", teacher=teachers, biased="biased"),
    }
    sample = make_sample("train", quick=quick, seed=9000 + seed, agreement=AGREEMENT, count=1500 if quick else 4000)
    start = time.process_time()
    student = train(make_mlp(seed, 16), recipes[arm](), sample, seed=seed, epochs=15 if quick else 25)
    return {**measure(student, seed, quick=quick), "seconds": time.process_time() - start}


def _tasks(scale: ExperimentScale) -> list[WorkItem]:
    return [
        WorkItem(teacher_task(seed)[0], partial(train_teachers, seed=seed, quick=scale.quick), (), 5.0)
        for seed in scale.seeds
    ]


STUDY = ClaimStudy(
    "groups", "Does a biased ensemble lose the worst group, and do weights of teachers regain it?", ARMS, train_arm,
    (ACCURACY, WORST, SECONDS),
    [
        Claim.of_difference("agre_kd", "kd", WORST),
        Claim.of_difference("agre_kd", "alone", WORST),
        Claim.of_difference("kd, debiased", "kd", WORST, sentence="the two biased teachers cost the worst group"),
        Claim.of_difference("agre_kd", "kd", ACCURACY),
    ],
    {"quick": 3.0, "full": 12.0}, shared=_tasks, requires=teacher_task, skip=FASHION_MLP.why_skipped,
)  # fmt: skip
TITLE = (
    "Kenfack, Aivodji and Ebrahimi Kahou, Adaptive Group Robust Ensemble Knowledge Distillation, 2024, arXiv:2411.14984"
)
CLAIM = "The average of teachers costs the worst group of examples; weights against a biased model regain it."
EXPERIMENTS = (STUDY.experiment(),)
