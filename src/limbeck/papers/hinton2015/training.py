"""Training of one teacher and one student of the MNIST experiments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from limbeck.data import Dataset, RandomShift, ShuffledLoader, Subset
from limbeck.engine import distill
from limbeck.functional import prior_bias
from limbeck.methods import make
from limbeck.models import add_bias
from limbeck.papers.experiment import Figures, TaskFolder
from limbeck.papers.hinton2015.digits import (
    BATCH,
    CLASSES,
    PRECISION,
    READS,
    STUDENT,
    TEACHER,
    digits,
    errors,
    labels_of,
    logits,
    network,
)
from limbeck.recipe import Optimizer, Recipe
from limbeck.teachers import PrecomputedTeacher

_ANSWERS = "answers.safetensors"
_TEACHER_BATCH = 256


def teach(desk: TaskFolder, *, seed: int, quick: bool) -> Figures:
    """Train the paper's teacher, two layers of 1200 units.

    It has dropout and weight constraints, and its inputs are shifted by up to two pixels. Its outputs for the original
    training images are stored for all students.
    """
    data = digits(quick)
    net = network(1200, seed=seed, dropout=0.5, input_dropout=0.2)
    loader = ShuffledLoader(data.train, batch_size=_TEACHER_BATCH, seed=seed, augment=RandomShift(2, seed=seed))
    _train(desk, net, make("supervised"), loader, seed=seed, epochs=6 if quick else 150, optimizer=TEACHER)
    answers, test_logits = logits(net, data.train), logits(net, data.test)
    save_file({"train": answers, "test": test_logits}, desk.folder / _ANSWERS)
    return {"errors": errors(test_logits, labels_of(data.test)), "train_errors": errors(answers, labels_of(data.train))}


@dataclass(frozen=True)
class MnistTraining:
    """Settings of a student.

    Attributes:
        units: The size of its two hidden layers.
        epochs: Passes over its transfer set.
        temperature: T of the soft targets.
        weight: The weight of the soft targets; the labels have the rest.
        teacher: The task of the teacher; None for training on labels alone.
        only: The classes in its transfer set; None for all.
        free: The classes whose bias is corrected afterwards, by their frequency in the training data.
        batch: The batch size.
    """

    units: int = 800
    epochs: int = 60
    temperature: float = 20.0
    weight: float = 0.5
    teacher: str | None = None
    only: tuple[int, ...] | None = None
    free: tuple[int, ...] = ()
    batch: int = BATCH


def study(desk: TaskFolder, *, lesson: MnistTraining, seed: int, quick: bool) -> Figures:
    """Train and test one student; if a class was missing, test it again with a corrected bias."""
    data = digits(quick)
    net = network(lesson.units, seed=seed)
    transfer = data.train if lesson.only is None else only(data.train, lesson.only)
    recipe = make("supervised")
    if lesson.teacher is not None:
        answers = load_file(desk.of(lesson.teacher) / _ANSWERS)["train"]
        recipe = make(
            "hinton",
            teacher=PrecomputedTeacher(answers),
            temperature=lesson.temperature,
            weight=lesson.weight,
            labels=lesson.weight < 1,
        )
    loader = ShuffledLoader(transfer, batch_size=lesson.batch, seed=seed)
    _train(desk, net, recipe, loader, seed=seed, epochs=lesson.epochs, optimizer=STUDENT)
    labels = labels_of(data.test)
    figures: dict[str, Any] = _counted(logits(net, data.test), labels)
    if lesson.free:
        bias = _missing_bias(net, data.train, lesson.free)
        corrected = _counted(logits(add_bias(net, bias), data.test), labels)
        figures |= {f"corrected_{name}": value for name, value in corrected.items()}
        figures["bias"] = {str(c): round(float(bias[c]), 3) for c in lesson.free}
    return figures


def only(examples: Dataset, classes: tuple[int, ...]) -> Subset:
    """Select the examples of some classes."""
    labels = labels_of(examples)
    return Subset(examples, torch.isin(labels, torch.tensor(classes)).nonzero().squeeze(1))


def _missing_bias(net: nn.Module, probe: Dataset, classes: tuple[int, ...]) -> Tensor:
    """Correct biases without labels and test images: from training images and the class frequencies."""
    prior = torch.bincount(labels_of(probe), minlength=CLASSES).double() / len(probe)
    moved = torch.zeros(CLASSES, dtype=torch.bool)
    moved[list(classes)] = True
    return prior_bias(logits(net, probe), prior, classes=moved)


def _counted(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    counts: dict[str, Any] = {"errors": errors(logits, labels)}
    for digit in range(CLASSES):
        of_it = labels == digit
        counts[f"errors_on_{digit}"] = errors(logits[of_it], labels[of_it])
    counts["error_percent"] = 100 * counts["errors"] / len(labels)
    return counts


def _train(
    desk: TaskFolder,
    net: nn.Module,
    recipe: Recipe,
    loader: ShuffledLoader,
    *,
    seed: int,
    epochs: int,
    optimizer: Optimizer,
) -> None:
    distill(
        net,
        recipe,
        loader,
        out=desk.folder / "run",
        resume=True,
        seed=seed,
        epochs=epochs,
        optimizer=optimizer,
        preprocess=READS,
        precision=PRECISION,
        accelerator="cpu",
        log_every=100,
        checkpoint_seconds=60.0,
        workers=1,
    ).finish()
