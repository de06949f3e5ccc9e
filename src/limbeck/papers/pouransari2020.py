"""Pouransari et al., 2020, arXiv:2007.00051: a student that learns the mean and the variance of an ensemble."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data import ArrayDataset, ShuffledLoader
from limbeck.engine import distill
from limbeck.methods import make
from limbeck.methods.logits.gaussian_kl import gaussian_kl_divergence
from limbeck.models import Mlp, seeded
from limbeck.models.gaussian_head import MOMENTS
from limbeck.papers.claim import Claim, Figure
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import ExperimentScale, Figures, TaskFolder, load_weights, save_weights
from limbeck.recipe import Optimizer
from limbeck.task_runner import WorkItem
from limbeck.teachers import Ensemble

ARMS = {
    "alone": "squared error to the targets",
    "kd": "squared error to the mean of the ensemble",
    "kd, more inputs": "the same, with inputs from a wider range",
    "gaussian_kl": "mean and variance of the ensemble",
    "gaussian_kl, more inputs": "the same, with inputs from a wider range",
}
MEMBERS, LABELED, MORE = 5, 150, 600
STEPS = (600, 2000)
"""Steps of a student, quick and full."""
SUPPORT, RANGE = 1.0, 2.0
"""Labeled inputs are within the first of 0; further inputs, and those of the test, within the second."""
SMALLEST = 1e-3
"""The variance that is added to that of the members, as for the method."""
GAP = Figure("gap", "error to the ensemble's mean", "", lower_is_better=True)
INSIDE = Figure("inside", "KL inside", "nats", lower_is_better=True)
OUTSIDE = Figure("outside", "KL outside", "nats", lower_is_better=True)
ERROR = Figure("error", "error to the truth, inside", "", lower_is_better=True)


def truth(x: Tensor) -> Tensor:
    """The function without noise."""
    return torch.sin(4 * x)


def draw_data(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw labeled inputs with their noisy targets, and further inputs from the wider range."""
    draw = torch.Generator().manual_seed(seed)
    x = SUPPORT * (2 * torch.rand(LABELED, 1, generator=draw) - 1)
    y = truth(x) + 0.1 * (1 + x.abs()) * torch.randn(LABELED, 1, generator=draw)
    return x, y, RANGE * (2 * torch.rand(MORE, 1, generator=draw) - 1)


def make_network(units: int, seed: int) -> nn.Module:
    """Make a regressor of one number."""
    with seeded(seed):
        return Mlp(inputs=1, classes=1, hidden=[units, units])


def _train(net: nn.Module, recipe: Any, data: ArrayDataset, seed: int, steps: int) -> nn.Module:
    batch = 50
    epochs = math.ceil(steps * batch / len(data))
    loader = ShuffledLoader(data, batch_size=batch, seed=seed)
    optimizer = Optimizer("adam", lr=5e-3, warmup=0.05)
    return (
        distill(net, recipe, loader, epochs=epochs, seed=seed, optimizer=optimizer, accelerator="cpu").finish().student
    )


def teach(folder: TaskFolder, *, seed: int, member: int, quick: bool) -> Figures:
    """Train one member of the ensemble on the labeled inputs."""
    x, y, _ = draw_data(seed)
    net = make_network(32, 1000 * (seed + 1) + member)
    data = ArrayDataset(x, extra={"targets": y})
    _train(net, make("supervised", task="regression"), data, 1000 + member, 600 if quick else 1500)
    save_weights(net, folder)
    return {"error": _root_mean_square(net(_grid()[0]) - truth(_grid()[0]))}


def train_arm(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Train one student, and measure it on a grid inside and outside the range of the labeled inputs."""
    members = [load_weights(make_network(32, 0), folder, _task(seed, number)) for number in range(MEMBERS)]
    # The mean of numbers is the geometric mean of "logits"; the arithmetic one is of probabilities.
    (x, y, more), ensemble = draw_data(seed), Ensemble(*members, mean="geometric")
    inputs = torch.cat([x, more]) if arm.endswith("more inputs") else x
    if arm == "alone":
        recipe, data = make("supervised", task="regression"), ArrayDataset(x, extra={"targets": y})
    else:
        data = ArrayDataset(inputs)
        recipe = make("hinton", teacher=ensemble, task="regression", weight=1.0, labels=False)
        if arm.startswith("gaussian_kl"):
            recipe = make("gaussian_kl", teacher=ensemble, smallest_variance=SMALLEST)
    student = _train(make_network(12, seed), recipe, data, seed, STEPS[not quick]).eval()
    constant = _moments_of_members(members, x)[:, 1].mean()
    return _measure(student, members, float(constant))


@torch.no_grad()
def _measure(student: nn.Module, members: list[nn.Module], constant: float) -> dict[str, float]:
    """Compare with the ensemble. A student without variances has one: the mean of the ensemble's on labeled inputs."""
    figures = {}
    for name, grid in zip(("inside", "outside"), _grid(), strict=True):
        theirs, ours = _moments_of_members(members, grid), _moments_of_student(student, grid, constant)
        figures[name] = float(gaussian_kl_divergence(ours, theirs).mean())
    whole = torch.cat(_grid())
    gap = _root_mean_square(student(whole) - _moments_of_members(members, whole)[:, :1])
    return {**figures, "gap": gap, "error": _root_mean_square(student(_grid()[0]) - truth(_grid()[0]))}


def _grid() -> tuple[Tensor, Tensor]:
    inside = torch.linspace(-SUPPORT, SUPPORT, 201)[:, None]
    outside = torch.linspace(SUPPORT, RANGE, 101)[:, None]
    return inside, torch.cat([-outside, outside])


@torch.no_grad()
def _moments_of_members(members: list[nn.Module], x: Tensor) -> Tensor:
    outputs = torch.cat([member(x) for member in members], 1)
    variance = outputs.var(1, correction=0, keepdim=True) + SMALLEST
    return torch.cat([outputs.mean(1, keepdim=True), variance.log()], 1)


def _moments_of_student(student: nn.Module, x: Tensor, constant: float) -> Tensor:
    found: list[Tensor] = []
    layers = [module for name, module in student.named_modules() if name.split(".")[-1] == MOMENTS]
    hooks = [layer.register_forward_hook(lambda *output: found.append(output[-1])) for layer in layers]
    means = student(x)
    for hook in hooks:
        hook.remove()
    return found[0] if found else torch.cat([means, torch.full_like(means, constant)], 1)


def _root_mean_square(values: Tensor) -> float:
    return float(values.detach().square().mean().sqrt())


def _task(seed: int, member: int) -> str:
    return f"moments/member-{member}/seed-{seed}"


def _members(scale: ExperimentScale) -> list[WorkItem]:
    return [
        WorkItem(
            _task(seed, number), partial(teach, seed=seed, member=number, quick=scale.quick), (), scale.pick(1, 2)
        )
        for seed in scale.seeds for number in range(MEMBERS)
    ]  # fmt: skip


STUDY = ClaimStudy(
    "moments", "Does a student know where its ensemble is unsure, and do more inputs help?", ARMS, train_arm,
    (GAP, INSIDE, OUTSIDE, ERROR),
    [
        Claim.of_difference("gaussian_kl", "kd", INSIDE),
        Claim.of_difference("gaussian_kl, more inputs", "gaussian_kl", OUTSIDE),
        Claim.of_difference("gaussian_kl, more inputs", "kd, more inputs", OUTSIDE),
        Claim.of_difference("gaussian_kl, more inputs", "kd", GAP),
        Claim.of_difference("gaussian_kl, more inputs", "alone", GAP),
    ],
    {"quick": 1.5, "full": 4}, shared=_members,
    requires=lambda seed: tuple(_task(seed, number) for number in range(MEMBERS)),
    describe=lambda scale: (
        f"The sine of one number with noise: {LABELED} labeled inputs from -{SUPPORT:g} to {SUPPORT:g} (inside), "
        f"{MORE} further inputs from -{RANGE:g} to {RANGE:g}; {MEMBERS} members with two layers of 32 units for each "
        f"seed, students with two of 12 and {scale.pick(*STEPS)} steps. Students without a variance get one constant "
        "for the KL divergence."
    ),
)  # fmt: skip
TITLE = (
    "Pouransari, Javaheripi, Sharma and Tuzel, Extracurricular Learning: Knowledge Transfer Beyond Empirical "
    "Distribution, 2020, arXiv:2007.00051"
)
CLAIM = "A student that matches the distribution of an ensemble, also on further inputs, comes nearer to it."
EXPERIMENTS = (STUDY.experiment(),)
