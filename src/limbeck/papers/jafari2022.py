"""Jafari et al. (2022): continuation, annealing and distillation, with and without noise in the teacher's logits."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from limbeck.methods import make
from limbeck.papers.claim import Claim, Column
from limbeck.papers.claim_study import ClaimStudy, SettingsSearch
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
    "kd": "soft targets and labels",
    "annealing": "annealing_kd: an early part of the epochs on growing logits, then labels",
    "continuation": "continuation_kd",
    "kd, noise": "kd, with normal noise on the teacher's logits",
    "annealing, noise": "annealing, with the same noise",
    "continuation, noise": "continuation, with the same noise",
}
SETTING = replace(FASHION_MLP, development_images=10_000, quick={**FASHION_MLP.quick, "epochs": 20})


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


def train_arm(
    folder: TaskFolder, *, arm: str, seed: int, quick: bool, development: bool = False, lr: float | None = None,
    temperature: float = 4.0, weight: float = 0.9, margin: float = 1.0, annealed: float = 0.75,
) -> Figures:  # fmt: skip
    """Train the student of one arm and seed."""
    setting = SETTING.at(quick, development=development, lr=lr)
    true = load_teacher(folder, setting, seed)
    kind, _, noisy = arm.partition(", ")
    teacher = NoisyLogits(true, NOISE).eval() if noisy else true
    last = max(round((1 - annealed) * setting.epochs), 1)
    recipes = {
        "alone": lambda: make("supervised"),
        "kd": lambda: make("hinton", teacher=teacher, temperature=temperature, weight=weight),
        "annealing": lambda: make("annealing_kd", teacher=teacher, annealing_epochs=setting.epochs - last, epochs=last),
        "continuation": lambda: make("continuation_kd", teacher=teacher, margin=margin),
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


SOFT = [
    {"lr": lr, "temperature": t, "weight": w} for lr, t, w in ((2e-3, 4.0, 0.9), (2e-3, 2.0, 0.5), (4e-3, 2.0, 0.5))
]
ANNEALED = [{"lr": lr, "annealed": part} for lr, part in ((2e-3, 0.75), (4e-3, 0.75), (4e-3, 0.5))]
MARGINS = [{"lr": lr, "margin": margin} for lr, margin in ((2e-3, 1.0), (4e-3, 1.0), (4e-3, 0.5))]
SETTINGS = {
    "alone": [{"lr": lr} for lr in (1e-3, 2e-3, 4e-3)],
    **{arm: own for kind, own in (("kd", SOFT), ("annealing", ANNEALED), ("continuation", MARGINS))
       for arm in (kind, f"{kind}, noise")},
}  # fmt: skip
"""An arm with noise tries its settings with the noise."""
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
    seconds={"quick": 2.5, "full": 12.0},
    search=SettingsSearch(SETTINGS, ACCURACY),
    **share_teachers(SETTING),
)
EXPERIMENTS = (STUDY.experiment(),)
