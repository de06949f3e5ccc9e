"""Wang et al., 2022, arXiv:2302.00444: whether an actor leaves out features that are noise, on Fashion-MNIST."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from limbeck.methods import make
from limbeck.methods.teachers.knowledge_selection import SelectedKnowledge
from limbeck.papers.claim import Claim, Column, Figure
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import Figures, TaskFolder
from limbeck.papers.small_images import (
    ACCURACY,
    FASHION_MLP,
    NLL,
    SECONDS,
    load_teacher,
    make_network,
    measure_network,
    run_recipe,
    share_teachers,
)

SETTING = replace(
    FASHION_MLP, train=6000, student_images=3000, teacher=("mlp", {"hidden": [100, 100]}), epochs=30, teacher_epochs=15,
    quick={"train": 3000, "student_images": 1500, "teacher_epochs": 8, "epochs": 15, "teacher_seconds": 2.0},
)  # fmt: skip
ARMS = {
    "alone": "labels",
    "kd": "labels and soft targets with equal weights",
    "all": "labels, soft targets and features that are noise, with equal weights",
    "knowledge_selection": "the same kinds, weighed by an actor after two episodes of practice",
}
NOISE = Figure("noise", "weight of the noise", "", lower_is_better=True)


class NoisyLayer(nn.Module):
    """A teacher with a further layer whose outputs say nothing of the image: large random numbers of its pixels."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher, self.noise = teacher, nn.Identity()

    def forward(self, inputs: Tensor) -> Tensor:
        """The teacher's logits."""
        draw = torch.Generator().manual_seed(0)
        mixed = inputs.flatten(1) @ torch.randn(inputs[0].numel(), 20, generator=draw).to(inputs)
        self.noise(20 * torch.sin(40 * mixed))
        logits: Tensor = self.teacher(inputs)
        return logits


def train_arm(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Train one student, and measure it and the weight of the noise."""
    setting = SETTING.at(quick)
    teacher = NoisyLayer(load_teacher(folder, setting, seed))
    layers = {"at": "noise", "student_at": "features"}
    recipes = {
        "alone": lambda: make("supervised"),
        "kd": lambda: make("hinton", teacher=teacher, temperature=2.0, weight=0.5),
        "all": lambda: make("knowledge_selection", teacher=teacher, episodes=0, noise=0.0, selector_lr=1e-12, **layers),
        "knowledge_selection": lambda: make("knowledge_selection", teacher=teacher, **layers),
    }
    recipe = recipes[arm]()
    run, seconds = run_recipe(
        make_network(setting.student, setting, seed), recipe, setting, seed=seed, epochs=setting.epochs
    )
    objective = run.stages[-1].objective
    weights = {"noise": objective.selector.by_name["features"]} if isinstance(objective, SelectedKnowledge) else {}
    return {**measure_network(run.student, setting), **weights, "seconds": seconds}


def _below_a_fifth(column: Column) -> list[float]:
    return [0.2 - value for value in column("knowledge_selection", NOISE.key)]


STUDY = ClaimStudy(
    "knowledge", "Does an actor leave out a kind of knowledge that is noise?", ARMS, train_arm,
    (ACCURACY, NLL, NOISE, SECONDS),
    [
        Claim("the noise has a weight below 0.2", _below_a_fifth, ""),
        Claim.of_difference("knowledge_selection", "all", ACCURACY),
        Claim.of_difference("knowledge_selection", "kd", ACCURACY),
        Claim.of_difference("knowledge_selection", "alone", ACCURACY),
    ],
    {"quick": 4.0, "full": 15.0}, **share_teachers(SETTING),
)  # fmt: skip
TITLE = (
    "Wang, Lu, Mu, Hu, Xiao and Zhu, Improved Knowledge Distillation for Pre-trained Language Models via Knowledge "
    "Selection, 2022, arXiv:2302.00444"
)
CLAIM = (
    "An actor that weighs kinds of knowledge in each phase teaches a student more than all kinds with equal weights."
)
EXPERIMENTS = (STUDY.experiment(),)
