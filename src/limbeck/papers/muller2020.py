"""Müller, Kornblith and Hinton (2020): with two classes, a teacher that invents subclasses teaches more."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.data import ArrayDataset, Dataset
from limbeck.engine import distill
from limbeck.methods import make
from limbeck.metrics import accuracy, nll, predict
from limbeck.models import build
from limbeck.papers.claim import Claim, Figure
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import ExperimentScale, Figures, TaskFolder
from limbeck.papers.small_images import ACCURACY, FASHION_MLP, NLL, load_images
from limbeck.recipe import Optimizer

TITLE = "Müller, Kornblith and Hinton, Subclass Distillation, 2020, arXiv:2002.03936"
CLAIM = (
    "With two classes a teacher's answer says little. A teacher that invents subclasses of both teaches a student more "
    "than distillation does."
)

USED = Figure("used", "subclasses that the teacher uses", "")
OF_TEACHER = Figure("teacher", "accuracy of the teacher", "%", resolution=0.05)
ARMS = {
    "alone": "labels: a digit from 0 to 4, or from 5 to 9",
    "kd": "soft targets at T = 4 with a weight of 0.5, of a teacher with two outputs",
    "subclass, no auxiliary": "five subclasses of each class, without the auxiliary loss",
    "subclass": "five subclasses of each class, with the auxiliary loss",
}
TEST = 2000


class Halves(NamedTuple):
    """Digits as inputs, and as labels of two classes."""

    train: Dataset
    test: Dataset


@cache
def load_halves(train: int, test: int = TEST) -> Halves:
    """Load digits with the label 0 for 0 to 4, and 1 for 5 to 9."""
    splits = load_images("mnist", train, test)

    def make_part(examples: Dataset) -> Dataset:
        batch = examples.take(torch.arange(len(examples)))
        inputs: Float[Tensor, "n ..."] = torch.as_tensor(splits.preprocess(batch))
        digits: Int[Tensor, " n"] = torch.as_tensor(batch.labels)
        return ArrayDataset(inputs.float().flatten(1), (digits >= 5).long())

    return Halves(make_part(splits.train), make_part(splits.test))


def train_arm(
    folder: TaskFolder, *, arm: str, seed: int, quick: bool, train: int | None = None, epochs: int | None = None
) -> Figures:
    """Train the teacher and the student of one arm and seed."""
    del folder
    halves = load_halves(train or (1500 if quick else 6000))
    length = epochs or (20 if quick else 30)
    pixels = 28 * 28
    student = build("mlp", inputs=pixels, classes=2, hidden=[16], seed=seed)
    teacher = build("mlp", inputs=pixels, classes=2, hidden=[256, 256], dropout=0.3, seed=1000 + seed)
    settings = {"subclasses": 1 if arm == "kd" else 5, "auxiliary_weight": 1.0 if arm == "subclass" else 0.0}
    recipe = make("supervised") if arm == "alone" else make("subclass_distillation", teacher=teacher, **settings)
    run = distill(
        student, recipe, halves.train, seed=seed, epochs=length, batch_size=100, accelerator="cpu", log_every=100,
        optimizer=Optimizer("adamw", lr=2e-3, warmup=0.05), workers=1,
    ).finish()  # fmt: skip
    found = predict(run.student, halves.test)
    figures = {"accuracy": 100 * accuracy(found).value, "nll": nll(found).value}
    if arm == "alone":
        return {**figures, "teacher": 0.0, "used": 0.0}
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


def why_skipped(scale: ExperimentScale) -> str:
    """The reason why the study is skipped: MNIST is missing."""
    return replace(FASHION_MLP, data="mnist").why_skipped(scale)


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
    skip=why_skipped,
)
EXPERIMENTS = (STUDY.experiment(),)
