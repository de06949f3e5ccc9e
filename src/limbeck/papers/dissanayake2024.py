"""Dissanayake et al., 2024, arXiv:2411.07483: RID and VID with a trained and an untrained teacher."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from limbeck.methods import make
from limbeck.metrics import estimate_information
from limbeck.papers.claim import Claim, Figure
from limbeck.papers.claim_study import ClaimStudy, SettingsSearch
from limbeck.papers.experiment import Figures, TaskFolder
from limbeck.papers.small_images import (
    ACCURACY,
    FASHION_MLP,
    SECONDS,
    ImageSetting,
    images_of,
    load_teacher,
    make_network,
    measure_network,
    share_teachers,
    train_network,
)
from limbeck.tap import Tapped

ARMS = {
    "alone": "labels",
    "kd": "plain KD",
    "vid": "all of the teacher's features",
    "rid": "what of them is about the labels",
    "vid, untrained teacher": "the same with a teacher of random weights",
    "rid, untrained teacher": "the same with a teacher of random weights",
}
SETTING = replace(FASHION_MLP, development_images=10_000, quick={**FASHION_MLP.quick, "epochs": 12})
LAYERS = ["layer1", "layer2"]
TRANSFERRED = Figure("redundant", "redundant information", "bits")
LEFT = Figure("unique_teacher", "only in the teacher", "bits", lower_is_better=True)


def train_arm(
    folder: TaskFolder, *, arm: str, seed: int, quick: bool, development: bool = False, lr: float | None = None,
    **settings: Any,
) -> Figures:  # fmt: skip
    """Train a student; measure its accuracy, and the information of the last hidden layers about the labels."""
    setting = SETTING.at(quick, development=development, lr=lr)
    name, untrained = arm.partition(", ")[0], arm.endswith("untrained teacher")
    teacher = make_network(setting.teacher, setting, 500 + seed) if untrained else load_teacher(folder, setting, seed)
    layers = {"teacher": teacher.eval(), "at": LAYERS, "student_at": LAYERS, **settings}
    recipe = {
        "alone": lambda: make("supervised"),
        "kd": lambda: make("hinton", teacher=teacher, **settings),
        "vid": lambda: make("vid", **layers),
        "rid": lambda: make("rid", **layers),
    }[name]()
    student = make_network(setting.student, setting, seed)
    student, seconds = train_network(student, recipe, setting, seed=seed, epochs=setting.epochs)
    if development:
        return measure_network(student, setting)
    information = estimate_information(*_features(setting, teacher, student))
    parts = {"redundant": information.redundant, "unique_teacher": information.unique_teacher}
    return {**measure_network(student, setting), "seconds": seconds, **parts}


def _features(
    setting: ImageSetting, teacher: torch.nn.Module, student: torch.nn.Module
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The last hidden layers of both networks, and the labels, of the test images."""
    splits = images_of(setting)
    batch = splits.test.take(torch.arange(len(splits.test)))
    read = []
    for network in (teacher, student):
        with torch.no_grad(), Tapped(network.eval(), LAYERS[-1:]) as tapped:
            read.append(tapped(splits.preprocess(batch))[LAYERS[-1]])
    return read[0], read[1], torch.as_tensor(batch.labels)


SOFT = [{"lr": lr, "temperature": t, "weight": w} for lr, t, w in ((2e-3, 4.0, 0.9), (4e-3, 2.0, 0.5))]
SETTINGS = {
    "alone": [{"lr": lr} for lr in (2e-3, 4e-3)],
    "kd": SOFT,
    **{arm: [{"lr": lr, "weight": weight} for lr, weight in zip((2e-3, 4e-3), weights, strict=True)]
       for kind, weights in (("vid", (100.0, 10.0)), ("rid", (10.0, 1.0)))
       for arm in (kind, f"{kind}, untrained teacher")},
}  # fmt: skip
"""An arm with an untrained teacher tries its settings with that teacher."""
STUDY = ClaimStudy(
    "nuisance",
    "Which features of a teacher does a student copy, if the teacher knows nothing?",
    ARMS,
    train_arm,
    (ACCURACY, TRANSFERRED, LEFT, SECONDS),
    [
        Claim.of_difference("rid, untrained teacher", "vid, untrained teacher", ACCURACY, paper=26.0),
        Claim.of_difference(
            "alone",
            "vid, untrained teacher",
            ACCURACY,
            sentence="vid with an untrained teacher below alone",
            paper=32.5,
        ),
        Claim.of_difference("rid", "alone", ACCURACY, paper=8.8),
        Claim.of_difference("rid", "kd", ACCURACY),
        Claim.of_equality("rid", "vid", ACCURACY, margin=2.0),
    ],
    {"quick": 3, "full": 25},
    search=SettingsSearch(SETTINGS, ACCURACY),
    **share_teachers(SETTING),
)
TITLE = (
    "Dissanayake et al., Quantifying Knowledge Distillation Using Partial Information Decomposition, 2024, "
    "arXiv:2411.07483"
)
CLAIM = (
    "A student that learns only what of its teacher is about the labels gains as much from a trained teacher as with "
    "VID, and loses far less to an untrained one (CIFAR-10: 65.8 % beside 39.8 %, and 72.3 % alone)."
)
EXPERIMENTS = (STUDY.experiment(),)
