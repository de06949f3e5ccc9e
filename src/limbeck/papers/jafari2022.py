"""Jafari et al. (2022): continuation, annealing and distillation, with and without noise in the teacher's logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from limbeck.methods import make
from limbeck.papers.claim import Claim, Column
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import Figures, TaskFolder
from limbeck.papers.small_images import (
    ACCURACY,
    FASHION_MLP,
    FIGURES,
    load_teacher,
    share_teachers,
    train_student,
)

TITLE = (
    "Jafari, Kobyzev, Rezagholizadeh, Poupart and Ghodsi, Continuation KD: Improved Knowledge Distillation through the "
    "Lens of Continuation Optimization, 2022, arXiv:2212.05998"
)
CLAIM = (
    "A student that starts with small logits of the teacher and a margin, and ends with labels, is better than by "
    "distillation, and loses less from noise in the teacher's logits."
)

NOISE = 4.0
"""The standard deviation of the noise of the logits."""
ARMS = {
    "alone": "labels",
    "kd": "soft targets at T = 4 with a weight of 0.9, and labels",
    "annealing": "annealing_kd: three quarters of the epochs on growing logits, then labels",
    "continuation": "continuation_kd with a margin of 1",
    "kd, noise": "kd, with normal noise on the teacher's logits",
    "annealing, noise": "annealing, with the same noise",
    "continuation, noise": "continuation, with the same noise",
}


class NoisyLogits(nn.Module):
    """A network with normal noise on its logits, a function of its input: the same in every epoch.

    Args:
        network: The network.
        scale: The standard deviation.
    """

    def __init__(self, network: nn.Module, scale: float) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, inputs: Tensor) -> Tensor:
        """The logits with noise from a hash of each input."""
        logits: Tensor = self.network(inputs)
        flat = inputs.flatten(1).double()
        # Sines of large multiples are as good as random, and do not depend on the batch.
        phase = (flat * torch.arange(1, flat.shape[1] + 1, dtype=flat.dtype).sqrt()).sum(1, keepdim=True)
        steps = torch.arange(1, 2 * logits.shape[1] + 1, dtype=flat.dtype)
        uniform = ((phase * steps * 12.9898).sin() * 43758.5453).remainder(1).clamp(1e-6, 1 - 1e-6)
        first, second = uniform.chunk(2, 1)
        normal = (-2 * first.log()).sqrt() * (2 * torch.pi * second).cos()
        return logits + self.scale * normal.to(logits)


def train_arm(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Train the student of one arm and seed."""
    setting = FASHION_MLP.at(quick)
    true = load_teacher(folder, setting, seed)
    kind, _, noisy = arm.partition(", ")
    teacher = NoisyLogits(true, NOISE).eval() if noisy else true
    whole = setting.epochs
    recipes = {
        "alone": lambda: make("supervised"),
        "kd": lambda: make("hinton", teacher=teacher, temperature=4.0, weight=0.9),
        "annealing": lambda: make(
            "annealing_kd", teacher=teacher, annealing_epochs=whole - whole // 4, epochs=whole // 4
        ),
        "continuation": lambda: make("continuation_kd", teacher=teacher),
    }
    return train_student(recipes[kind](), setting, seed=seed, teacher=true)


def _loss_from_noise(arm: str, other: str) -> Claim:
    """The claim that an arm loses less accuracy from noise than another."""

    def values(column: Column) -> list[float]:
        def losses(kind: str) -> list[float]:
            clean, noisy = column(kind, "accuracy"), column(f"{kind}, noise", "accuracy")
            return [a - b for a, b in zip(clean, noisy, strict=True)]

        return [b - a for a, b in zip(losses(arm), losses(other), strict=True)]

    return Claim(f"{arm} loses less from noise than {other}: accuracy", values, resolution=0.05)


STUDY = ClaimStudy(
    name="continuation",
    title="Is a path from small logits to labels better, and is it robust to noise?",
    arms=ARMS,
    train=train_arm,
    figures=FIGURES,
    claims=(
        Claim.of_difference("continuation", "kd", ACCURACY),
        Claim.of_difference("continuation", "annealing", ACCURACY),
        Claim.of_difference("continuation", "alone", ACCURACY),
        _loss_from_noise("continuation", "kd"),
        _loss_from_noise("continuation", "annealing"),
    ),
    seconds={"quick": 3.0, "full": 12.0},
    **share_teachers(FASHION_MLP),
)
EXPERIMENTS = (STUDY.experiment(),)
