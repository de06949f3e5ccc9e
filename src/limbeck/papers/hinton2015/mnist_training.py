"""Teachers and students on MNIST: data, networks, optimizers, training and testing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from limbeck.data import Dataset, DataSplits, NormalizeImages, RandomShift, ShuffledLoader, Subset, load_data
from limbeck.engine import distill
from limbeck.functional import prior_bias
from limbeck.methods import make
from limbeck.metrics import predict
from limbeck.models import Mlp, add_bias, seeded
from limbeck.papers.experiment import ExperimentScale, Figures, TaskFolder, fewer, renumbered
from limbeck.recipe import Optimizer, Recipe
from limbeck.task_runner import WorkItem
from limbeck.teachers import PrecomputedTeacher

CLASSES = 10
READS = NormalizeImages((0.0,), (1.0,))
"""Pixels from 0 (paper) to 1 (ink), so that dropout at the input sets pixels to paper."""
PRECISION = "bf16-mixed"
_QUICK = (6000, 2000)


@cache
def digits(quick: bool) -> DataSplits:
    """Load MNIST; at quick scale a fixed subset of a few thousand images."""
    whole = load_data("mnist")
    return fewer(whole, train=_QUICK[0], test=_QUICK[1]) if quick else whole


@cache
def development_digits(quick: bool) -> DataSplits:
    """Split the training images: five of six to learn from, and the last sixth in the place of test images."""
    whole = digits(quick)
    count = len(whole.train) * 5 // 6
    parts = (Subset(whole.train, torch.arange(*ends)) for ends in ((0, count), (count, len(whole.train))))
    train, test = (renumbered(part) for part in parts)
    return DataSplits(whole.name, train, test, whole.preprocess, whole.class_names)


def network(units: int, *, seed: int, dropout: float = 0.0, input_dropout: float = 0.0) -> Mlp:
    """Make a network with two hidden layers of this many units."""
    with seeded(seed):
        return Mlp(inputs=784, classes=CLASSES, hidden=[units, units], dropout=dropout, input_dropout=input_dropout)


def constrained_adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam that limits the norm of each unit's incoming weights to 3.5.

    The paper says "weight-constraints" and points to Hinton et al., 2012, arXiv:1207.0580, which bounds the norm of
    each unit's incoming weights.
    """
    return limit_norms(torch.optim.Adam(list(parameters), lr=1e-3, fused=True), 3.5)


def constrained_sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum and a high learning rate that limits the norm of each unit's incoming weights to 3."""
    return limit_norms(torch.optim.SGD(list(parameters), lr=0.1, momentum=0.9, nesterov=True, fused=True), 3.0)


def limit_norms(optimizer: torch.optim.Optimizer, norm: float) -> torch.optim.Optimizer:
    """Make an optimizer scale each row of a matrix down to this norm after each step, if it is longer."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    weights = [parameter for parameter in parameters if parameter.ndim == 2]
    optimizer.register_step_post_hook(lambda *_: _shorten_rows(weights, norm))
    return optimizer


@torch.no_grad()
def _shorten_rows(weights: list[nn.Parameter], norm: float) -> None:
    for weight in weights:
        length = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
        weight.mul_((norm / length).clamp_max_(1.0))


TEACHER = Optimizer(name=constrained_sgd, warmup=0.01)
STUDENT = Optimizer(name="adam", lr=1e-3, warmup=0.01)
"""The optimizers of teachers and students, whose learning rates fall by half a cosine."""


def logits(model: nn.Module, examples: Dataset) -> Tensor:
    """Compute the logits of the examples in order, in float32."""
    loader = ShuffledLoader(examples, batch_size=2000, shuffle=False)
    return predict(model, loader, preprocess=READS).student


def labels_of(examples: Dataset) -> Tensor:
    """Return the labels of the examples."""
    labels: Any = examples.labels
    return cast(Tensor, labels)


def errors(logits: Tensor, labels: Tensor) -> int:
    """Count the wrong rows."""
    return int((logits.argmax(-1) != labels).sum())


_ANSWERS = "answers.safetensors"


@dataclass(frozen=True)
class MnistTeacherTraining:
    """Settings of a teacher.

    Attributes:
        epochs: Passes over the jittered training images.
        optimizer: The optimizer and its schedule.
        batch: The batch size.
        development: Whether it learns from five sixths of the training images and is tested on the last sixth.
    """

    epochs: int = 150
    optimizer: Optimizer = TEACHER
    batch: int = 256
    development: bool = False


def teach(desk: TaskFolder, *, lesson: MnistTeacherTraining, seed: int, quick: bool) -> Figures:
    """Train the paper's teacher, two layers of 1200 units.

    It has dropout and weight constraints, and its inputs are shifted by up to two pixels. Its outputs for the original
    training images are stored for all students.
    """
    data = development_digits(quick) if lesson.development else digits(quick)
    net = network(1200, seed=seed, dropout=0.5, input_dropout=0.2)
    loader = ShuffledLoader(data.train, batch_size=lesson.batch, seed=seed, augment=RandomShift(2, seed=seed))
    _train(desk, net, make("supervised"), loader, seed=seed, epochs=lesson.epochs, optimizer=lesson.optimizer)
    answers, test_logits = logits(net, data.train), logits(net, data.test)
    save_file({"train": answers}, desk.folder / _ANSWERS)
    return {"errors": errors(test_logits, labels_of(data.test)), "train_errors": errors(answers, labels_of(data.train))}


@dataclass(frozen=True)
class MnistTraining:
    """Settings of a student.

    Attributes:
        units: The size of its two hidden layers.
        epochs: Passes over its transfer set.
        temperature: T of the soft targets.
        weight: The weight of the soft targets; the labels have the rest.
        teachers: The tasks of its teachers, whose logits are averaged; empty for training on labels alone.
        only: The classes in its transfer set; None for all.
        free: The classes whose bias is corrected afterwards, by their frequency in the training data.
        batch: The batch size.
        optimizer: The optimizer and its schedule.
        development: Whether it learns from five sixths of the training images and is tested on the last sixth.
    """

    units: int = 800
    epochs: int = 60
    temperature: float = 20.0
    weight: float = 0.5
    teachers: tuple[str, ...] = ()
    only: tuple[int, ...] | None = None
    free: tuple[int, ...] = ()
    batch: int = 128
    optimizer: Optimizer = STUDENT
    development: bool = False


def study(desk: TaskFolder, *, lesson: MnistTraining, seed: int, quick: bool) -> Figures:
    """Train and test one student; if a class was missing, test it again with a corrected bias."""
    data = development_digits(quick) if lesson.development else digits(quick)
    net = network(lesson.units, seed=seed)
    transfer = data.train if lesson.only is None else only(data.train, lesson.only)
    loader = ShuffledLoader(transfer, batch_size=lesson.batch, seed=seed)
    recipe = _recipe(desk, lesson)
    _train(desk, net, recipe, loader, seed=seed, epochs=lesson.epochs, optimizer=lesson.optimizer)
    labels = labels_of(data.test)
    figures: dict[str, Any] = _count_errors(logits(net, data.test), labels)
    if lesson.free:
        bias = _missing_bias(net, data.train, lesson.free)
        corrected = _count_errors(logits(add_bias(net, bias), data.test), labels)
        figures |= {f"corrected_{name}": value for name, value in corrected.items()}
        figures["bias"] = {str(c): round(float(bias[c]), 3) for c in lesson.free}
    return figures


def _recipe(desk: TaskFolder, lesson: MnistTraining) -> Recipe:
    if not lesson.teachers:
        return make("supervised")
    # The mean of logits is that of log-probabilities: the geometric mean, one of the paper's two ways to average.
    answers = torch.stack([load_file(desk.of(one) / _ANSWERS)["train"] for one in lesson.teachers]).mean(0)
    teacher = PrecomputedTeacher(answers)
    weight = lesson.weight
    return make("hinton", teacher=teacher, temperature=lesson.temperature, weight=weight, labels=weight < 1)


def only(examples: Dataset, classes: tuple[int, ...]) -> Subset:
    """Select the examples of some classes."""
    labels = labels_of(examples)
    return Subset(examples, torch.isin(labels, torch.tensor(classes)).nonzero().squeeze(1))


def _missing_bias(net: nn.Module, probe: Dataset, classes: Sequence[int]) -> Tensor:
    """Correct biases without labels and test images: from training images and the class frequencies."""
    prior = torch.bincount(labels_of(probe), minlength=CLASSES).double() / len(probe)
    moved = torch.zeros(CLASSES, dtype=torch.bool)
    moved[list(classes)] = True
    return prior_bias(logits(net, probe), prior, classes=moved)


def _count_errors(logits: Tensor, labels: Tensor) -> dict[str, Any]:
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


QUICK_EPOCHS = 5
_SECONDS_PER_EPOCH = {8: 1.0, 30: 1.2, 100: 1.4, 300: 2.4, 800: 5.5}
"""Seconds per epoch of 60,000 images, on one thread of the reference machine (`task_queue.machine_slowness`)."""
_TEACHER_SECONDS_PER_EPOCH = 9.5


def teacher_task(scale: ExperimentScale, name: str, lesson: MnistTeacherTraining, seed: int) -> WorkItem:
    """Make the task of a teacher; at quick scale it has few epochs."""
    lesson = replace(lesson, epochs=scale.pick(QUICK_EPOCHS + 1, lesson.epochs))
    seconds = lesson.epochs * _TEACHER_SECONDS_PER_EPOCH * _examples(scale, development=lesson.development)
    return WorkItem(name, partial(teach, lesson=lesson, seed=seed, quick=scale.quick), seconds=max(seconds, 5))


def student_task(
    scale: ExperimentScale, name: str, lesson: MnistTraining, seed: int, *, share: float = 1.0
) -> WorkItem:
    """Make the task of one student; `share` is the fraction of the training images in its transfer set."""
    examples = share * _examples(scale, development=lesson.development)
    seconds = 1 + lesson.epochs * _SECONDS_PER_EPOCH[lesson.units] * examples
    work = partial(study, lesson=lesson, seed=seed, quick=scale.quick)
    return WorkItem(name, work, lesson.teachers, seconds)


def _examples(scale: ExperimentScale, *, development: bool) -> float:
    """The training images, as a share of 60,000."""
    return scale.pick(_QUICK[0], 60_000) / 60_000 * (5 / 6 if development else 1)
