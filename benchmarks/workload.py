"""Data, networks and settings that all loops of the benchmark share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.data import ArrayDataset, ShuffledLoader
from limbeck.errors import LimbeckError, unknown_name_error

PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}
"""What a figure is called -> what Fabric calls it."""

TEMPERATURE = 4.0
WEIGHT = 0.9
"""Of the soft targets; the labels have the rest."""
PEAK = 1e-3
"""The learning rate that half a cosine wave starts from."""


@dataclass(frozen=True)
class Sizes:
    """How big data and networks are; the defaults are those of Hinton et al. on MNIST.

    Attributes:
        examples: How many examples there are.
        inputs: Numbers in one example.
        classes: Classes.
        teacher: Units in each of the teacher's two hidden layers.
        student: Units in each of the student's two hidden layers.
        batch: Examples in a batch.

    Raises:
        LimbeckError: If one is below 1, or the batch is larger than the data.
    """

    examples: int = 60_000
    inputs: int = 784
    classes: int = 10
    teacher: int = 1200
    student: int = 800
    batch: int = 256

    def __post_init__(self) -> None:
        check_counts(self)
        if self.batch > self.examples:
            raise LimbeckError(f"A batch of {self.batch} is larger than the {self.examples} examples.")


def check_counts(counts: object) -> None:
    """Refuse a benchmark of which one number is below 1.

    Raises:
        LimbeckError: With its name.
    """
    for name, value in vars(counts).items():
        if value < 1:
            raise LimbeckError(f"{name} must be at least 1; got {value}.")


class Network(nn.Module):
    """Two hidden layers with ReLU, as one writes it by hand."""

    def __init__(self, inputs: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes)
        )

    def forward(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch classes"]:
        """The logits."""
        logits: Tensor = self.layers(x)
        return logits


@dataclass(frozen=True)
class Work:
    """Data, a teacher that is frozen, and the weights that every student starts from."""

    sizes: Sizes
    inputs: Float[Tensor, "examples inputs"]
    labels: Int[Tensor, " examples"]
    teacher: nn.Module
    initial: nn.Module

    def student(self) -> nn.Module:
        """A student of one's own; all start from the same weights."""
        return copy.deepcopy(self.initial)

    @cached_property
    def examples(self) -> ArrayDataset:
        """The data as the engine takes them; they are looked through once."""
        return ArrayDataset(self.inputs, self.labels)

    def make_loader(self) -> ShuffledLoader:
        """A stream of batches, at its beginning."""
        return ShuffledLoader(self.examples, batch_size=self.sizes.batch, seed=0)

    def random_order(self, epoch: int) -> Int[Tensor, " examples"]:
        """The order of one epoch, as one draws it by hand."""
        return torch.randperm(self.sizes.examples)


Order = Callable[[int], Tensor]
"""An epoch's number -> the order in which it hands out the examples."""


@dataclass(frozen=True)
class Plan:
    """How long a loop runs, and in what precision.

    Attributes:
        steps: Optimizer steps, over which the learning rate falls to zero.
        block: Steps between two yields, at which the loss is read.
        precision: ``float32``, or ``bfloat16`` for autocast around both forward passes.

    Raises:
        LimbeckError: If steps are not whole blocks.
        UnknownNameError: If the precision is unknown.
    """

    steps: int
    block: int
    precision: str = field(default="float32")

    def __post_init__(self) -> None:
        if self.block < 1 or self.steps < self.block or self.steps % self.block:
            raise LimbeckError(f"steps must be whole blocks; got {self.steps} steps in blocks of {self.block}.")
        if self.precision not in PRECISIONS:
            raise unknown_name_error("precision", self.precision, PRECISIONS)

    @property
    def mixed(self) -> bool:
        """Whether autocast is on."""
        return self.precision == "bfloat16"


Blocks = Callable[[Work, Plan, nn.Module, Order | None], Iterator[float]]
"""A loop that trains a student block by block: each ``next()`` is `Plan.block` steps and gives their mean loss.

The order of epochs is for the check; None leaves it to the loop.
"""


def make_work(sizes: Sizes | None = None, *, seed: int = 0) -> Work:
    """Random data and networks of the given sizes.

    The teacher's logits are scaled to a standard deviation of about 3, as a trained one's are; an untrained teacher is
    nearly uniform, and an error in the soft targets would not show.

    Args:
        sizes: How big; by default as on MNIST.
        seed: Another seed gives other data and weights.
    """
    size = sizes or Sizes()
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(size.examples, size.inputs, generator=generator)
    labels = torch.randint(size.classes, (size.examples,), generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        teacher = Network(size.inputs, size.teacher, size.classes).requires_grad_(False).eval()
        student = Network(size.inputs, size.student, size.classes)
    with torch.no_grad():
        scale = 3.0 / teacher(inputs[: size.batch]).std().clamp_min(1e-6)
        for parameter in teacher.layers[-1].parameters():
            parameter.mul_(scale)
    return Work(size, inputs, labels, teacher, student)
