"""Singh and Jaggi (2019): networks are averaged after their units were matched, and teach a student."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from limbeck.methods import make
from limbeck.metrics import accuracy, predict
from limbeck.models.fusion import fuse_networks
from limbeck.papers.claim import Claim, Figure
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import ExperimentScale, Figures, Row, TaskFolder, load_weights, save_weights
from limbeck.papers.small_images import (
    ACCURACY,
    FASHION_MLP,
    NLL,
    OF_TEACHER,
    SECONDS,
    ImageSetting,
    images_of,
    make_loader,
    make_network,
    measure_network,
    student_images,
    train_network,
    train_student,
)
from limbeck.task_runner import WorkItem
from limbeck.teachers import Ensemble

TITLE = "Singh and Jaggi, Model Fusion via Optimal Transport, 2019, arXiv:1910.05653"
CLAIM = (
    "Networks whose units were matched by optimal transport can be averaged into one network, and plain averages "
    "cannot. After some further training it is better than each of them."
)
AT_ONCE = Figure("at_once", "accuracy before further training", "%", resolution=0.05)
SETTING = replace(
    FASHION_MLP, teacher=("mlp", {"hidden": [200, 200]}), student=("mlp", {"hidden": [20, 20]}),
    quick={"train": 3000, "student_images": 1500, "teacher_epochs": 10, "epochs": 25},
)  # fmt: skip
ARMS = {
    "alone": "the student learns from labels",
    "kd": "from the ensemble of both networks, T = 4, w = 0.9",
    "member": "from one of the networks, trained on as long as the fused one",
    "plain average": "from the average of the weights, trained on",
    "fused": "from the average of matched weights, trained on",
    "fused, activations": "the same, matched by activations for 200 images",
}
"""The teacher of each arm."""


def _task(member: int, seed: int) -> str:
    return f"fusion/network-{member}/seed-{seed}"


def train_member(folder: TaskFolder, *, member: int, seed: int, quick: bool) -> Figures:
    """Train one of two networks on the labels."""
    setting, start = SETTING.at(quick), 1000 * (member + 1) + seed
    net = make_network(setting.teacher, setting, start)
    net, _ = train_network(
        net, make("supervised"), setting, seed=start, epochs=setting.teacher_epochs, examples=images_of(setting).train
    )
    save_weights(net, folder)
    return measure_network(net, setting)


def train_arm(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Make the teacher of one arm and seed, and train the student."""
    setting = SETTING.at(quick)
    if arm == "alone":
        return train_student(make("supervised"), setting, seed=seed)
    networks = [
        load_weights(make_network(setting.teacher, setting, 0), folder, _task(member, seed)) for member in (0, 1)
    ]
    if arm == "kd":
        ensemble = Ensemble(*networks)
        own = measure_ensemble(networks, setting)
        figures = train_student(make("hinton", teacher=ensemble, temperature=4.0, weight=0.9), setting, seed=seed)
        return {**figures, "teacher": own, "at_once": own}
    teacher = _combine(arm, networks, setting)
    at_once = measure_network(teacher, setting)["accuracy"]
    teacher, _ = train_network(
        teacher, make("supervised"), setting, seed=seed, epochs=setting.teacher_epochs // 2,
        examples=images_of(setting).train,
    )  # fmt: skip
    figures = train_student(make("hinton", teacher=teacher, temperature=4.0, weight=0.9), setting, seed=seed)
    return {**figures, "teacher": measure_network(teacher, setting)["accuracy"], "at_once": at_once}


def _combine(arm: str, networks: list[nn.Module], setting: ImageSetting) -> nn.Module:
    if arm == "member":
        return networks[0]
    if arm == "plain average":
        average = copy.deepcopy(networks[0])
        with torch.no_grad():
            for own, other in zip(average.parameters(), networks[1].parameters(), strict=True):
                own.lerp_(other, 0.5)
        return average
    images = student_images(setting)
    batch = images.take(torch.arange(min(200, len(images))))
    inputs = images_of(setting).preprocess(batch)
    return fuse_networks(networks, inputs, ground="activations" if arm.endswith("activations") else "weights")


def measure_ensemble(networks: list[nn.Module], setting: ImageSetting) -> float:
    """The accuracy of the mean of the probabilities on the test images, in percent."""
    loader = make_loader(replace(setting, batch_size=500), images_of(setting).test, 0)
    found = [predict(net, loader, preprocess=images_of(setting).preprocess) for net in networks]
    mean = torch.stack([one.student.softmax(1) for one in found]).mean(0).log()
    return 100 * accuracy(found[0]._replace(student=mean)).value


def _members(scale: ExperimentScale) -> list[WorkItem]:
    return [
        WorkItem(_task(member, seed), partial(train_member, member=member, seed=seed, quick=scale.quick), (), 3.0)
        for seed in scale.seeds for member in (0, 1)
    ]  # fmt: skip


def _rows(scale: ExperimentScale, results: Mapping[str, Figures]) -> list[Row]:
    values = [results[_task(0, seed)]["accuracy"] for seed in scale.seeds]
    return [Row("one of the networks: accuracy", values, "%", lower_is_better=False)]


STUDY = ClaimStudy(
    name="fusion",
    title="Is a network of matched and averaged weights a network of its own, and a teacher?",
    arms=ARMS,
    train=train_arm,
    figures=(ACCURACY, NLL, AT_ONCE, OF_TEACHER, SECONDS),
    claims=(
        Claim.of_difference("fused", "plain average", AT_ONCE),
        Claim.of_difference("fused", "member", OF_TEACHER),
        Claim.of_difference("fused", "plain average", OF_TEACHER),
        Claim.of_difference("fused", "member", ACCURACY, sentence="students of fused over those of a member: accuracy"),
        Claim.of_difference("fused", "alone", ACCURACY),
        Claim.of_equality("fused", "kd", ACCURACY, margin=1.0),
    ),
    seconds={"quick": 4.0, "full": 25.0},
    shared=_members,
    requires=lambda seed: (_task(0, seed), _task(1, seed)),
    rows=_rows,
    skip=SETTING.why_skipped,
    describe=SETTING.describe,
)
EXPERIMENTS = (STUDY.experiment(),)
