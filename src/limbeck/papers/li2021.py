"""Li et al., 2021, arXiv:2107.08039: features of a student of specialists, with and without a generalist among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data import ArrayDataset
from limbeck.methods import make
from limbeck.models import build
from limbeck.papers.claim import Claim, Figure
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import ExperimentScale, Figures, TaskFolder, load_weights, save_weights
from limbeck.papers.small_images import FASHION_MLP, SECONDS, ImageSetting, images_of, train_network
from limbeck.task_runner import WorkItem

SETTING = replace(
    FASHION_MLP, train=8000, student_images=0, teacher=("mlp", {"hidden": [100, 40]}), epochs=20, teacher_epochs=20,
    quick={"train": 3000, "test": 1000, "teacher_epochs": 12, "epochs": 12},
)  # fmt: skip
PROBE = Figure("probe", "accuracy of a linear layer", "%", resolution=0.05)
TASKS: Mapping[str, Mapping[int, int]] = {
    "all": {label: label for label in range(10)},
    "tops": {0: 0, 2: 1, 4: 1, 6: 0},  # two classes of garments
    "shoes": {5: 0, 7: 1, 9: 1},
}
"""What each teacher tells apart: its own classes by class of the data. Images of other classes it has not seen."""
ARMS = {
    "alone": "the features of the generalist, from which all students start",
    "kd": "one head that learns the specialists' classes together (an average cannot be made)",
    "specialists": "a head for each specialist",
    "consolidation": "a head for each specialist, and one for the generalist",
}


def teacher_task(seed: int) -> tuple[str, ...]:
    """The task that trains the teachers of a seed."""
    return (f"teachers/seed-{seed}",)


def make_body(classes: int, seed: int) -> nn.Module:
    """A perceptron; teachers and students have the same layers before the last one."""
    return build("mlp", inputs=784, classes=classes, seed=seed, **SETTING.teacher[1])


def make_teachers() -> nn.ModuleDict:
    """The untrained teachers by name."""
    return nn.ModuleDict(
        {name: make_body(len(set(own.values())), number) for number, (name, own) in enumerate(TASKS.items())}
    )


def lesson(setting: ImageSetting, name: str) -> ArrayDataset:
    """The images and labels of a teacher."""
    batch = images_of(setting).train.take(torch.arange(len(images_of(setting).train)))
    labels = torch.as_tensor(batch.labels)
    rows = torch.isin(labels, torch.tensor(list(TASKS[name])))
    return ArrayDataset(batch.inputs[rows], torch.tensor([TASKS[name][int(label)] for label in labels[rows]]))


def train_teachers(folder: TaskFolder, *, seed: int, quick: bool) -> Figures:
    """Train the generalist and, from its weights, the specialists of a seed."""
    setting, teachers = SETTING.at(quick), make_teachers()
    figures: dict[str, float] = {}
    for name, net in teachers.items():
        if name != "all":
            copy_body(teachers["all"], net)
        _, figures[name] = train_network(
            net, make("supervised"), setting, seed=seed, epochs=setting.teacher_epochs, examples=lesson(setting, name)
        )
    save_weights(teachers, folder)
    return figures


def copy_body(source: nn.Module, target: nn.Module) -> None:
    """Copy all weights whose shapes are those of the target: all but the output layer's."""
    own = target.state_dict()
    fits = {name: value for name, value in source.state_dict().items() if own[name].shape == value.shape}
    target.load_state_dict({**own, **fits})


def read_features(net: nn.Module, inputs: Tensor) -> Tensor:
    """The input of the output layer."""
    kept: list[Tensor] = []
    layer = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    hook = layer.register_forward_pre_hook(lambda _, arguments: kept.append(arguments[0]))
    with torch.no_grad():
        net.eval()(inputs)
    hook.remove()
    return kept[0]


def measure(net: nn.Module, setting: ImageSetting, seed: int) -> dict[str, float]:
    """The accuracy for all ten classes of a linear layer that is fitted to the features of 300 images, in percent."""
    splits = images_of(setting)
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(splits.train), generator=draw)[:300]
    sides = []
    for examples, index in ((splits.train, rows), (splits.test, torch.arange(len(splits.test)))):
        batch = examples.take(index)
        sides.append((read_features(net, torch.as_tensor(splits.preprocess(batch))), torch.as_tensor(batch.labels)))
    (x, y), (test, truth) = sides
    mean, spread = x.mean(0), x.std(0).clamp_min(1e-3)
    layer = nn.Linear(x.shape[1], 10)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=100)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(layer((x - mean) / spread), y) + 1e-3 * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return {"probe": 100 * float((layer((test - mean) / spread).argmax(1) == truth).float().mean())}


def train_arm(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Train a student on images without labels, from the generalist's weights, and probe its features."""
    setting = SETTING.at(quick)
    teachers: Mapping[str, Any] = dict(load_weights(make_teachers(), folder, teacher_task(seed)[0]).items())  # type: ignore[operator]
    specialists = {name: net for name, net in teachers.items() if name != "all"}
    if arm == "alone":
        return measure(teachers["all"], setting, seed)
    layer = [name for name, module in teachers["all"].named_modules() if not isinstance(module, nn.Sequential)]
    recipes = {
        "kd": lambda: make("hinton", teacher=_Joined(list(specialists.values())), labels=False, temperature=2.0),
        "specialists": lambda: make(
            "representation_consolidation", teacher=specialists, student_at=layer[-2], probe=False
        ),
        "consolidation": lambda: make(
            "representation_consolidation", teacher=teachers, generalist="all", student_at=layer[-2], probe=False
        ),
    }
    student = make_body(4 if arm == "kd" else 10, 1000 + seed)
    copy_body(teachers["all"], student)
    images = images_of(setting).train.take(torch.arange(len(images_of(setting).train))).inputs
    shipped, seconds = train_network(
        student, recipes[arm](), setting, seed=seed, epochs=setting.epochs, examples=ArrayDataset(images)
    )
    return {**measure(shipped, setting, seed), "seconds": seconds}


class _Joined(nn.Module):
    """The logits of several networks side by side."""

    def __init__(self, parts: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat([part(inputs) for part in self.parts], -1)


def _tasks(scale: ExperimentScale) -> list[WorkItem]:
    return [
        WorkItem(teacher_task(seed)[0], partial(train_teachers, seed=seed, quick=scale.quick), (), 4.0)
        for seed in scale.seeds
    ]


STUDY = ClaimStudy(
    "features", "Do features of a student of specialists stay useful, and does a generalist among them help?", ARMS,
    train_arm, (PROBE, SECONDS),
    [
        Claim.of_difference("consolidation", "specialists", PROBE),
        Claim.of_difference("alone", "specialists", PROBE, sentence="specialists alone make the features worse"),
        Claim.of_difference("consolidation", "kd", PROBE),
        Claim.of_difference("consolidation", "alone", PROBE, sentence="consolidation over the generalist"),
    ],
    {"quick": 2.5, "full": 8.0}, shared=_tasks, requires=teacher_task, skip=SETTING.why_skipped,
)  # fmt: skip
TITLE = (
    "Li, Ravichandran, Fowlkes, Polito, Bhotika and Soatto, Representation Consolidation for Training Expert Students, "
    "2021, arXiv:2107.08039"
)
CLAIM = "Specialists alone make the features of their student less useful for other tasks; a generalist keeps them."
EXPERIMENTS = (STUDY.experiment(),)
