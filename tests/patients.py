"""Helpers: small jobs for the tests of the doctor."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from limbeck.data import ArrayDataset, ShuffledLoader
from limbeck.doctor import CheckContext, CheckedArm, examine
from limbeck.engine import TrainConfig, open_fabric
from limbeck.functional import cross_entropy, kl_divergence
from limbeck.losses import Loss
from limbeck.methods import make
from limbeck.recipe import Recipe, Stage
from limbeck.teachers import ModelTeacher, as_teacher

CLASSES = 4


def points(count: int = 120, *, seed: int = 0, scale: float = 1.0) -> ArrayDataset:
    """Points about four centers."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    centers = 3.0 * torch.eye(CLASSES, 6)
    inputs = (centers[labels] + torch.randn(count, 6, generator=draw) - 0.5) / 1.3
    return ArrayDataset(scale * inputs, labels)


class Sure(nn.Module):
    """A network that knows the centers; `order` is how it counts the classes."""

    def __init__(self, order: tuple[int, ...] = (0, 1, 2, 3)) -> None:
        super().__init__()
        self.inner = nn.Linear(6, CLASSES)
        with torch.no_grad():
            self.inner.weight.copy_(2.0 * torch.eye(CLASSES, 6)[list(order)])
            self.inner.bias.zero_()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.inner(inputs)


def hinton_of(teacher: Any, **given: Any) -> Recipe:
    return make("hinton", teacher=teacher, **given)


def lesson(objective: Any, teacher: Any) -> Recipe:
    return Recipe(Stage(objective, teacher=teacher))


def usual() -> Any:
    return 0.5 * Loss(kl_divergence, temperature=2.0) + 0.5 * Loss(cross_entropy)


def student() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, CLASSES))


def patient(
    *, network: nn.Module | None = None, recipe: Recipe | None = None, trainer: Any = student, teacher: Any = None,
    data: ArrayDataset | None = None, setting: TrainConfig | None = None, **changes: Any,
) -> CheckContext:  # fmt: skip
    """A sound job, but for what is changed."""
    network = network or Sure()
    teacher = as_teacher(teacher or ModelTeacher(network))
    train = data or points()
    loader = ShuffledLoader(train, batch_size=16)
    arm = CheckedArm(
        "distilled", lambda: {"student": trainer()}, recipe or hinton_of(teacher), loader,
        setting or TrainConfig(epochs=2),
    )  # fmt: skip
    whole: dict[str, Any] = {
        "arms": (arm,), "teacher": teacher, "networks": {"teacher": network}, "trained": True, "train": train,
        "development": points(80, seed=1), "classes": CLASSES, "class_names": None, "preprocess": lambda b: b.inputs,
        "fabric": open_fabric(accelerator="cpu"),
    }  # fmt: skip
    return CheckContext(**{**whole, **changes})


def findings(*, seconds: float = 60.0, **changes: Any) -> dict[str, Any]:
    """What the doctor finds, by the checks' names."""
    return {one.name: one for one in examine(patient(**changes), seconds=seconds)}
