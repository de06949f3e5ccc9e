"""Mannix, Hodgkinson and Bondell, 2024, arXiv:2411.15239: features whose angles are those of a wide teacher."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limbeck.data import Dataset
from limbeck.functional import Projector, squared_error
from limbeck.losses import Loss
from limbeck.methods import make
from limbeck.papers.claim import Claim, Figure
from limbeck.papers.claim_study import ClaimStudy, SettingsSearch
from limbeck.papers.experiment import Figures, TaskFolder
from limbeck.papers.small_images import (
    FASHION_MLP,
    ImageSetting,
    images_of,
    load_teacher,
    make_network,
    share_teachers,
    student_images,
    train_network,
)
from limbeck.recipe import Stage
from limbeck.tap import Tapped

ARMS = {
    "alone": "labels only",
    "kd": "labels and soft targets",
    "projector up": "a learned map of the student's features to the teacher's, squared error, no labels",
    "cospress": "the teacher's features mapped down with their angles, no labels",
}
SETTING = replace(FASHION_MLP, quick={**FASHION_MLP.quick, "epochs": 12})
STUDENT_LAYER = "layer2.1"
"""The last hidden layer before its ReLU: features that are never negative have no angles above 90 degrees."""
NEIGHBORS, REFERENCES = 10, 1500
KNN = Figure("knn", "accuracy of 10 neighbors", "%", resolution=0.05)
SAME = Figure("same", "neighbors of the teacher", "%")


def read_features(network: nn.Module, layer: str, examples: Dataset, setting: ImageSetting) -> tuple[Tensor, Tensor]:
    """The features of a layer, with length 1, and the labels."""
    batch = examples.take(torch.arange(len(examples)))
    network.eval()
    with torch.no_grad(), Tapped(network, [layer]) as tapped:
        features = tapped(images_of(setting).preprocess(batch))[layer].float()
    return nn.functional.normalize(features.flatten(1), dim=1), torch.as_tensor(batch.labels)


def find_neighbors(
    features: Float[Tensor, "rows width"], references: Float[Tensor, "others width"]
) -> Int[Tensor, "rows neighbors"]:
    """The references with the largest cosines, of features of length 1."""
    return (features @ references.T).topk(NEIGHBORS, dim=1).indices


def measure_features(student: nn.Module, teacher: nn.Module, setting: ImageSetting) -> dict[str, float]:
    """The accuracy of the nearest neighbors of test images among training images, and how many the teacher has too."""
    references = student_images(setting)
    found = {}
    for name, network, layer in (("student", student, STUDENT_LAYER), ("teacher", teacher, "features")):
        rows, classes = read_features(network, layer, references, setting)
        tests, labels = read_features(network, layer, images_of(setting).test, setting)
        found[name] = find_neighbors(tests, rows[:REFERENCES])
    classes = classes[:REFERENCES]
    votes = torch.zeros(len(labels), int(classes.max()) + 1)
    votes.scatter_add_(1, classes[found["student"]], torch.ones(found["student"].shape))
    same = (found["student"].unsqueeze(2) == found["teacher"].unsqueeze(1)).any(2)
    right = votes.argmax(1) == labels
    return {"knn": 100 * float(right.float().mean()), "same": 100 * float(same.float().mean())}


def train_arm(
    folder: TaskFolder, *, arm: str, seed: int, quick: bool, development: bool = False, lr: float | None = None,
    **settings: Any,
) -> Figures:  # fmt: skip
    """Train a student by one of the arms, and measure its features."""
    setting = SETTING.at(quick, development=development, lr=lr)
    teacher = load_teacher(folder, setting, seed)
    up = Loss(squared_error, student=STUDENT_LAYER, teacher="features", head=Projector())
    recipes = {
        "alone": lambda: make("supervised"),
        "kd": lambda: make("hinton", teacher=teacher, **settings),
        "projector up": lambda: Stage(up, teacher=teacher),
        "cospress": lambda: make("cospress", teacher=teacher, at="features", student_at=STUDENT_LAYER, **settings),
    }
    network = make_network(setting.student, setting, seed)
    student, _ = train_network(network, recipes[arm](), setting, seed=seed, epochs=setting.epochs)
    return measure_features(student, teacher, setting)


RATES = [{"lr": lr} for lr in (1e-3, 2e-3, 4e-3, 8e-3)]
SOFT = [{"lr": lr, "temperature": t, "weight": w} for t, w in ((4.0, 0.9), (2.0, 0.5)) for lr in (2e-3, 4e-3)]
SETTINGS = {"alone": RATES, "kd": SOFT, "projector up": RATES, "cospress": RATES}
STUDY = ClaimStudy(
    "features", "Do features keep the teacher's neighbors if a head that keeps angles maps them down?", ARMS,
    train_arm, (KNN, SAME),
    [
        Claim.of_difference("cospress", "projector up", KNN),
        Claim.of_difference("cospress", "projector up", SAME),
        Claim.of_difference("cospress", "alone", SAME),
        Claim.of_difference("cospress", "kd", SAME),
    ],
    {"quick": 2.5, "full": 20.0}, **share_teachers(SETTING), search=SettingsSearch(SETTINGS, KNN),
)  # fmt: skip
TITLE = (
    "Mannix, Hodgkinson and Bondell, Preserving Angles Improves Feature Distillation of Foundation Models, 2024, "
    "arXiv:2411.15239"
)
CLAIM = "A student of features that were mapped down with their angles has the teacher's neighbors, without labels."
EXPERIMENTS = (STUDY.experiment(),)
