"""Müller, Kornblith and Hinton (2020): with two classes, a teacher that invents subclasses teaches more."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.data import ArrayDataset, Dataset
from limbeck.engine import distill
from limbeck.methods import make
from limbeck.metrics import accuracy, nll, predict
from limbeck.models import build
from limbeck.papers.claim import Claim, Figure
from limbeck.papers.claim_study import ClaimStudy, SettingsSearch
from limbeck.papers.experiment import ExperimentScale, Figures, TaskFolder
from limbeck.papers.small_images import ACCURACY, FASHION_MLP, NLL, OF_TEACHER, load_images
from limbeck.recipe import Optimizer

TITLE = "Müller, Kornblith and Hinton, Subclass Distillation, 2020, arXiv:2002.03936"
CLAIM = (
    "With two classes a teacher's answer says little. A teacher that invents subclasses of both teaches a student more "
    "than distillation does."
)

USED = Figure("used", "subclasses that the teacher uses", "")
ARMS = {
    "alone": "labels: a digit from 0 to 4, or from 5 to 9",
    "kd": "soft targets of a teacher with two outputs",
    "subclass, no auxiliary": "five subclasses of each class, without the auxiliary loss",
    "subclass": "five subclasses of each class, with the auxiliary loss",
}
TEST = 2000


class HalvesSizes(NamedTuple):
    """The number of training images, and of epochs of teacher and student."""

    train: int
    epochs: int


SIZES = {"quick": HalvesSizes(1500, 20), "full": HalvesSizes(6000, 30)}


class Halves(NamedTuple):
    """Digits as inputs, and as labels of two classes."""

    train: Dataset
    test: Dataset


@cache
def load_halves(train: int, test: int = TEST, development: bool = False) -> Halves:
    """Load digits with the label 0 for 0 to 4, and 1 for 5 to 9, and test images or such for a choice of settings."""
    splits = load_images("mnist", train, test, development)

    def make_part(examples: Dataset) -> Dataset:
        batch = examples.take(torch.arange(len(examples)))
        inputs: Float[Tensor, "n ..."] = torch.as_tensor(splits.preprocess(batch))
        digits: Int[Tensor, " n"] = torch.as_tensor(batch.labels)
        return ArrayDataset(inputs.float().flatten(1), (digits >= 5).long())

    return Halves(make_part(splits.train), make_part(splits.test))


def train_arm(
    folder: TaskFolder, *, arm: str, seed: int, quick: bool, development: bool = False, lr: float = 2e-3,
    **settings: Any,
) -> Figures:  # fmt: skip
    """Train the teacher and the student of one arm and seed."""
    del folder
    sizes, pixels = SIZES["quick" if quick else "full"], 28 * 28
    halves = load_halves(sizes.train, TEST, development)
    student = build("mlp", inputs=pixels, classes=2, hidden=[16], seed=seed)
    teacher = build("mlp", inputs=pixels, classes=2, hidden=[256, 256], dropout=0.3, seed=1000 + seed)
    kind = {"subclasses": 1 if arm == "kd" else 5, "auxiliary_weight": 1.0 if arm == "subclass" else 0.0}
    recipe = make("supervised")
    if arm != "alone":
        recipe = make("subclass_distillation", teacher=teacher, **kind, **settings)
    run = distill(
        student, recipe, halves.train, seed=seed, epochs=sizes.epochs, batch_size=100, accelerator="cpu", log_every=100,
        optimizer=Optimizer("adamw", lr=lr, warmup=0.05), workers=1,
    ).finish()  # fmt: skip
    found = predict(run.student, halves.test)
    figures = {"accuracy": 100 * accuracy(found).value, "nll": nll(found).value}
    if arm == "alone":
        return figures
    taught = run.models["subclass-teacher"]
    own = 100 * accuracy(predict(taught, halves.test)).value
    return {**figures, "teacher": own, "used": float(count_used(taught, halves.test))}


def count_used(network: nn.Module, examples: Dataset, *, share: float = 0.02) -> int:
    """Count the subclasses that are the most probable one of at least 2 % of the examples."""
    found: list[Tensor] = []
    layer = next(module for name, module in network.named_modules() if name.endswith("subclass_logits"))
    handle = layer.register_forward_hook(lambda module, inputs, output: found.append(output.argmax(-1)))
    predict(network, examples)
    handle.remove()
    chosen = torch.cat(found)
    return int((chosen.bincount() >= share * len(chosen)).sum())


def describe_training(scale: ExperimentScale) -> str:
    """Data, networks and training in a sentence."""
    train, epochs = SIZES[scale.name]
    return (
        f"mnist, digits below 5 against the others: a teacher with two layers of 256 units and a student with one of "
        f"16 learn {train:,} images in {epochs} epochs each; {TEST:,} test images; a teacher for each seed and arm."
    )


RATES = (1e-3, 2e-3, 4e-3, 8e-3)
SOFT = [
    {"lr": lr, "temperature": temperature, "weight": 0.5} for temperature in (4.0, 1.0) for lr in (2e-3, 4e-3)
]  # fmt: skip
STUDY = ClaimStudy(
    name="halves",
    title="Do subclasses of two classes of digits teach more than the two classes?",
    arms=ARMS,
    train=train_arm,
    figures=(ACCURACY, NLL, OF_TEACHER, USED),
    claims=(
        Claim.of_difference("subclass", "kd", ACCURACY),
        Claim.of_difference("subclass", "alone", ACCURACY),
        Claim.of_difference("kd", "alone", ACCURACY),
        Claim.of_difference("subclass", "subclass, no auxiliary", ACCURACY),
        Claim.of_difference(
            "subclass", "subclass, no auxiliary", USED, sentence="the auxiliary loss makes the teacher use subclasses"
        ),
    ),
    seconds={"quick": 5.0, "full": 25.0},
    skip=replace(FASHION_MLP, data="mnist").why_skipped,
    describe=describe_training,
    search=SettingsSearch({arm: SOFT if arm != "alone" else [{"lr": lr} for lr in RATES] for arm in ARMS}, ACCURACY),
)
EXPERIMENTS = (STUDY.experiment(),)
