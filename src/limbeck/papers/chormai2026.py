"""Chormai et al., 2026, arXiv:2601.05913: a few classes of a teacher, and the subspaces that decide between them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from limbeck.data import ArrayDataset, Dataset
from limbeck.losses import Loss
from limbeck.methods import make
from limbeck.methods.features.relevant_subspace import find_subspace
from limbeck.methods.features.subdistill import subtask_kl
from limbeck.models import build, fit_arguments
from limbeck.papers.claim import Claim, Figure
from limbeck.papers.claim_study import ClaimStudy
from limbeck.papers.experiment import Figures, TaskFolder
from limbeck.papers.small_images import (
    FASHION_MLP,
    ImageSetting,
    image_shape,
    images_of,
    load_teacher,
    share_teachers,
    student_images,
    train_network,
)
from limbeck.recipe import Stage
from limbeck.tap import Tapped

CLASSES = [0, 2, 4, 6]
"""T-shirt, pullover, coat and shirt: the classes that are confused most."""
SIZES = (1, 2, 3, 4)
ARMS = {
    "alone": "labels of the four classes",
    "kd": "soft targets of the four classes, T = 4",
    "subdistill": "soft targets, and the relevant subspace of the hidden features, w = 1",
}
ACCURACY = Figure("accuracy", "accuracy", "%", resolution=0.1)
BASES = {
    "relevant": "directions by activations and gradients",
    "pca": "principal components",
    "random": "random directions",
}
KEPT = tuple(Figure(f"kept {size}", f"accuracy at {size}", "%", resolution=0.1) for size in SIZES)


def load_subtask(part: str, setting: ImageSetting) -> ArrayDataset:
    """The images of the four classes, whose labels count from 0."""
    examples: Dataset = student_images(setting) if part == "train" else images_of(setting).test
    batch = examples.take(torch.arange(len(examples)))
    labels, order = torch.as_tensor(batch.labels), torch.tensor(CLASSES)
    chosen = torch.isin(labels, order)
    return ArrayDataset(torch.as_tensor(batch.inputs)[chosen], torch.searchsorted(order, labels[chosen]))


def _all_pixels(part: str, setting: ImageSetting) -> tuple[Tensor, Tensor]:
    data = load_subtask(part, setting)
    batch = data.take(torch.arange(len(data)))
    return torch.as_tensor(images_of(setting).preprocess(batch)).float(), torch.as_tensor(batch.labels)


def train_arm(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Train a student of four classes by one of the arms."""
    setting = FASHION_MLP.at(quick)
    teacher = load_teacher(folder, setting, seed)
    soft = Loss(subtask_kl, subtask=CLASSES, temperature=4.0)
    recipes = {
        "alone": lambda: make("supervised"),
        "kd": lambda: Stage(soft, teacher=teacher),
        "subdistill": lambda: make(
            "subdistill", teacher=teacher, at="layer2", student_at="layer2", classes=CLASSES, weight=1.0
        ),
    }
    fixed = fit_arguments("mlp", image_shape(setting), len(CLASSES))
    student: nn.Module = build("mlp", seed=seed, **fixed, hidden=[20, 20])
    examples = load_subtask("train", setting)
    student, _ = train_network(student, recipes[arm](), setting, seed=seed, epochs=setting.epochs, examples=examples)
    pixels, labels = _all_pixels("test", setting)
    with torch.no_grad():
        right = student.eval()(pixels).argmax(1) == labels
    return {"accuracy": 100 * float(right.float().mean())}


def project_teacher(folder: TaskFolder, *, arm: str, seed: int, quick: bool) -> Figures:
    """Keep a few directions of the teacher's last features, and measure how well it tells the four classes apart."""
    setting = FASHION_MLP.at(quick)
    teacher = load_teacher(folder, setting, seed)
    classifier = teacher.get_submodule("classifier")
    features = {part: _read_features(teacher, _all_pixels(part, setting)[0]) for part in ("train", "test")}
    rows = features["train"].requires_grad_()
    best = classifier(rows)[:, CLASSES].topk(2, dim=1).values
    (slopes,) = torch.autograd.grad((best[:, 0] - best[:, 1]).sum(), rows)
    rows, labels = rows.detach(), _all_pixels("test", setting)[1]
    # Without gradients the relevant directions are those of the largest variance.
    directions = find_subspace(rows, slopes if arm == "relevant" else torch.zeros_like(slopes), max(SIZES))
    basis = directions.basis.float()
    if arm == "random":
        draw = torch.Generator().manual_seed(seed)
        basis = torch.linalg.qr(torch.randn(rows.shape[1], max(SIZES), generator=draw)).Q
    figures, mean = {}, rows.mean(0)
    for size, figure in zip(SIZES, KEPT, strict=True):
        kept = basis[:, :size]
        with torch.no_grad():
            scores = classifier(mean + (features["test"] - mean) @ kept @ kept.T)[:, CLASSES]
        figures[figure.key] = 100 * float((scores.argmax(1) == labels).float().mean())
    return figures


def _read_features(network: nn.Module, pixels: Tensor) -> Tensor:
    with torch.no_grad(), Tapped(network, ["features"]) as tapped:
        return tapped(pixels)["features"]


PROJECTIONS = ClaimStudy(
    "directions", "How well does the teacher tell four classes apart if a few directions of its features are kept?",
    BASES, project_teacher, KEPT,
    [
        *(Claim.of_difference("relevant", "pca", figure) for figure in KEPT[1:3]),
        Claim.of_difference("relevant", "random", KEPT[2]),
    ],
    {"quick": 1.0, "full": 1.0}, **share_teachers(FASHION_MLP),
)  # fmt: skip
STUDENTS = ClaimStudy(
    "students", "Does a narrow student of four classes learn more from the relevant subspace?", ARMS, train_arm,
    (ACCURACY,), [Claim.of_difference("subdistill", other, ACCURACY) for other in ("alone", "kd")],
    {"quick": 3.0, "full": 12.0}, **share_teachers(FASHION_MLP),
)  # fmt: skip
TITLE = (
    "Chormai et al., Distilling Lightweight Domain Experts from Large ML Models by Identifying Relevant Subspaces, "
    "2026, arXiv:2601.05913"
)
CLAIM = (
    "A student of a few classes learns more from the part of the teacher that decides between them than from all of it."
)
EXPERIMENTS = (PROJECTIONS.experiment(), STUDENTS.experiment())
