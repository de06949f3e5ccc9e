"""Lopez-Paz et al., 2015, arXiv:1511.03643: privileged inputs of a teacher, on synthetic data and on MNIST."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data import ArrayDataset, ShuffledLoader
from limbeck.engine import distill
from limbeck.methods import make
from limbeck.metrics import accuracy, predict
from limbeck.models import Mlp, seeded
from limbeck.papers.claim import Claim, Column, Figure
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import Figures, TaskFolder, renumbered
from limbeck.papers.small_images import FASHION_MLP, load_images
from limbeck.recipe import Optimizer, Recipe

DIMENSIONS, RELEVANT = 50, 3
TRAIN, TEST = 200, 10_000
KINDS = {
    "clean labels": "the teacher reads the score whose noisy sign is the label",
    "clean features": "the teacher reads the features without noise",
    "relevant features": "the teacher reads the three features that matter",
    "relevant features of each example": "the same, other features for each example",
}
"""The four synthetic experiments of section 5.1, in its order."""
FIGURES = (
    Figure("teacher", "teacher", "%"),
    Figure("alone", "alone", "%"),
    Figure("kd", "plain KD", "%"),
    Figure("distilled", "generalized distillation", "%"),
)
TEMPERATURE, WEIGHT = 20.0, 0.98
"""On MNIST: the best T of the paper, and its lambda of 0.1 times T^2, as in its code, beside labels of weight 0.9."""


def draw_examples(kind: str, count: int, alpha: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw inputs, privileged inputs and labels.

    Args:
        kind: One of `KINDS`.
        count: The number of examples.
        alpha: The true weights, ``[DIMENSIONS]``.
        draw: The random generator.
    """
    x = torch.randn(count, DIMENSIONS, generator=draw)
    if kind == "clean labels":
        score = x @ alpha
        return x, score[:, None], (score + torch.randn(count, generator=draw) > 0).long()
    if kind == "clean features":
        return x + torch.randn(count, DIMENSIONS, generator=draw), x, (x @ alpha > 0).long()
    order = torch.arange(DIMENSIONS).expand(count, -1)
    if kind == "relevant features of each example":
        order = torch.rand(count, DIMENSIONS, generator=draw).argsort(1)
    few = x.gather(1, order[:, :RELEVANT])
    return x, few, (few @ alpha[:RELEVANT] > 0).long()


def compare_on_synthetic(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Train a linear teacher on privileged inputs, and linear students on the others, in one of the experiments."""
    del folder, quick
    draw = torch.Generator().manual_seed(seed)
    alpha = torch.randn(DIMENSIONS, generator=draw)
    train, test = (draw_examples(arm, count, alpha, draw) for count in (TRAIN, TEST))
    return _compare(train, test, _linear, seed=seed, epochs=300, batch=TRAIN)


def compare_on_digits(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Train a teacher on images of 28 x 28, and students on their means of 4 x 4 pixels."""
    del folder, quick
    images = load_images("mnist", 60_000, 10_000)
    chosen = torch.randperm(60_000, generator=torch.Generator().manual_seed(seed))[: int(arm.split(" ")[0])]
    train, test = _both_sizes(images.train.select(chosen)), _both_sizes(images.test)
    return _compare(train, test, _mlp, seed=seed, epochs=50, batch=32, temperature=TEMPERATURE, weight=WEIGHT)


def _both_sizes(examples: Any) -> tuple[Tensor, Tensor, Tensor]:
    data = renumbered(examples)
    batch = data.take(torch.arange(len(data)))
    pixels = torch.as_tensor(batch.inputs).float().reshape(len(data), 1, 28, 28) / 255
    return nn.functional.avg_pool2d(pixels, 4).flatten(1), pixels.flatten(1), torch.as_tensor(batch.labels)


def _linear(inputs: int) -> nn.Module:
    return nn.Linear(inputs, 2)


def _mlp(inputs: int) -> nn.Module:
    return Mlp(inputs=inputs, classes=10, hidden=[20, 20])


def _compare(
    train: Sequence[Tensor], test: Sequence[Tensor], make_network: Callable[[int], nn.Module], *, seed: int,
    epochs: int, batch: int, **settings: float,
) -> dict[str, float]:  # fmt: skip
    """The accuracy on test data of a teacher, and of students alone, with plain KD and with generalized KD."""
    (x, better, y), figures = train, {}

    def fit(name: str, recipe: Recipe, inputs: Tensor, evaluated: Tensor) -> nn.Module:
        with seeded(seed):
            net = make_network(inputs.shape[1])
        data = ArrayDataset(inputs, y, extra={"privileged": better})
        loader = ShuffledLoader(data, batch_size=batch, seed=seed)
        optimizer = Optimizer("adam" if isinstance(net, nn.Linear) else "rmsprop", lr=0.05 if batch == TRAIN else 3e-3)
        distill(net, recipe, loader, epochs=epochs, seed=seed, optimizer=optimizer, accelerator="cpu").finish()
        found = predict(net, ShuffledLoader(ArrayDataset(evaluated, test[2]), batch_size=2000, shuffle=False))
        figures[name] = 100 * accuracy(found).value
        return net

    teacher = fit("teacher", make("supervised"), better, test[1])
    alone = fit("alone", make("supervised"), x, test[0])
    kd = {"temperature": settings.get("temperature", 1.0), "weight": 0.5}
    fit("kd", make("hinton", teacher=alone, **kd), x, test[0])
    fit("distilled", make("privileged", teacher=teacher, **settings), x, test[0])
    return figures


def _gain(arm: str, over: str) -> Callable[[Column], list[float]]:
    return lambda column: [a - b for a, b in zip(column(arm, "distilled"), column(arm, over), strict=True)]


def _claims(papers: Mapping[str, float]) -> list[Claim]:
    return [
        Claim(f"{arm}: generalized distillation over {name}", _gain(arm, key), paper=paper if key == "alone" else None)
        for arm, paper in papers.items() for key, name in (("alone", "the student alone"), ("kd", "plain KD"))
    ]  # fmt: skip


SYNTHETIC = ClaimStudy(
    "synthetic", "Do linear students learn from a teacher with better inputs?", KINDS, compare_on_synthetic, FIGURES,
    [
        *_claims({"clean labels": 7.0, "relevant features": 8.0}),
        *(
            Claim(f"{arm}: no gain over alone, within 3 points", _gain(arm, "alone"), bounds=(-3.0, 3.0), paper=paper)
            for arm, paper in (("clean features", 2.0), ("relevant features of each example", 1.0))
        ),
    ],
    {"quick": 4, "full": 4},
    describe=lambda _: (
        f"Inputs of {DIMENSIONS} dimensions, {TRAIN} training and {TEST:,} test examples, drawn anew for each seed; "
        "linear models, T = 1, the teacher's predictions alone. Plain KD has a teacher that reads the student's inputs."
    ),
)  # fmt: skip


DIGITS = ClaimStudy(
    "digits", "Does a student that reads 7 x 7 pixels learn from a teacher that reads 28 x 28?",
    {"300 images": "as in figure 1 of the paper", "500 images": "the same with more"}, compare_on_digits, FIGURES,
    _claims({"300 images": 18.6, "500 images": 15.3}), {"quick": 8, "full": 8},
    skip=replace(FASHION_MLP, data="mnist").why_skipped,
    describe=lambda _: (
        "mnist: the teacher reads 28 x 28 pixels, the student their means over 4 x 4; two layers of 20 units, 50 "
        f"epochs of RMSprop, T = {TEMPERATURE:g}, 10,000 test images; other training images for each seed."
    ),
)  # fmt: skip
TITLE = (
    "Lopez-Paz, Bottou, Schölkopf and Vapnik, Unifying distillation and privileged information, 2015, arXiv:1511.03643"
)
CLAIM = "A teacher that reads better inputs teaches a student that never sees them, if they are about the label."
EXPERIMENTS = (SYNTHETIC.experiment(), DIGITS.experiment())
