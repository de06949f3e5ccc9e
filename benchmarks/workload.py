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
"""Name of a precision in the figures -> Fabric's name."""

TEMPERATURE = 4.0
WEIGHT = 0.9
"""Weight of the soft targets; the labels have the rest."""
PEAK = 1e-3
"""The initial learning rate of half a cosine wave."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of data and networks; the defaults are those of Hinton et al. on MNIST.

    Attributes:
        examples: Number of examples.
        inputs: Number of inputs of one example.
        classes: Number of classes.
        teacher: Units in each of the teacher's two hidden layers.
        student: Units in each of the student's two hidden layers.
        batch: Examples in a batch.

    Raises:
        LimbeckError: If a number is below 1, or the batch is larger than the data.
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
    """Check that all numbers of a benchmark are at least 1.

    Raises:
        LimbeckError: If one is not; the message has its name.
    """
    for name, value in vars(counts).items():
        if value < 1:
            raise LimbeckError(f"{name} must be at least 1; got {value}.")


class Network(nn.Module):
    """Two hidden layers with ReLU, in plain PyTorch."""

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
    """Data, a frozen teacher, and the initial weights of every student."""

    sizes: Sizes
    inputs: Float[Tensor, "examples inputs"]
    labels: Int[Tensor, " examples"]
    teacher: nn.Module
    initial: nn.Module

    def student(self) -> nn.Module:
        """A new student with the common initial weights."""
        return copy.deepcopy(self.initial)

    @cached_property
    def examples(self) -> ArrayDataset:
        """The data as a dataset of limbeck."""
        return ArrayDataset(self.inputs, self.labels)

    def make_loader(self) -> ShuffledLoader:
        """A new loader of the engine."""
        return ShuffledLoader(self.examples, batch_size=self.sizes.batch, seed=0)

    def random_order(self, epoch: int) -> Int[Tensor, " examples"]:
        """The order of one epoch in the plain loop."""
        return torch.randperm(self.sizes.examples)


Order = Callable[[int], Tensor]
"""Number of an epoch -> the order of its examples."""


@dataclass(frozen=True)
class Plan:
    """The length and precision of a loop.

    Attributes:
        steps: Number of optimizer steps, over which the learning rate falls to zero.
        block: Number of steps between two yields, at which the loss is read.
        precision: ``float32``, or ``bfloat16`` for autocast around both forward passes.

    Raises:
        LimbeckError: If `steps` is not a multiple of `block`.
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

The order of epochs is for the check of agreement; None for the loop's own.
"""


def make_work(sizes: Sizes | None = None, *, seed: int = 0) -> Work:
    """Random data and networks of the given sizes.

    The teacher's logits are scaled to a standard deviation of about 3, as for a trained teacher. The outputs of an
    untrained teacher are nearly uniform, so an error in the soft targets would have no visible effect.

    Args:
        sizes: The sizes; by default those of MNIST.
        seed: Seed of data and weights.
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
