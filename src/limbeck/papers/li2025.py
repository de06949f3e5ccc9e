"""Li et al., 2025, arXiv:2506.20688: relations of positions and of channels, on segmentation of drawn shapes."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.data import ArrayDataset, ShuffledLoader
from limbeck.engine import distill
from limbeck.methods import make
from limbeck.models import seeded
from limbeck.papers.claim import Claim, Figure
from limbeck.papers.claim_study import ClaimStudy, Results, SettingsSearch
from limbeck.papers.experiment import ExperimentScale, Figures, Row, TaskFolder, load_weights, save_weights
from limbeck.recipe import Optimizer, Recipe
from limbeck.task_runner import WorkItem

ARMS = {
    "alone": "labels of pixels",
    "kd": "labels and soft targets of pixels",
    "drd": "labels, relations of positions and of channels",
    "kd and drd": "labels, soft targets and the same relations",
}
SIZE, CLASSES = 24, 4
"""The side of an image, and its classes: background, discs, squares and crosses."""
TEACHER_WIDTH, STUDENT_WIDTH, TEACHER_IMAGES, TEST = 12, 4, 800, 200
TEACHER_EPOCHS = {"quick": 10, "full": 40}
STUDENT = {"quick": (128, 32), "full": (256, 60)}
"""Images and epochs of a student."""
MIOU = Figure("miou", "mIoU", "%")
PIXELS = Figure("pixels", "pixel accuracy", "%")


def draw_shapes(count: int, *, seed: int) -> tuple[Float[Tensor, "count 1 size size"], Int[Tensor, "count size size"]]:
    """Draw images of one disc, one square and one cross on a background, and the class of each pixel.

    Shapes have random places, sizes and brightness, may hide each other, and lie under noise.

    Args:
        count: The number of images.
        seed: The seed.
    """
    draw = torch.Generator().manual_seed(seed)
    grid = torch.arange(SIZE).float()
    images, labels = torch.zeros(count, SIZE, SIZE), torch.zeros(count, SIZE, SIZE, dtype=torch.int64)
    for kind in range(1, CLASSES):
        center = 5 + 14 * torch.rand(2, count, 1, 1, generator=draw)
        radius = 3 + 3 * torch.rand(count, 1, 1, generator=draw)
        y, x = (grid[:, None] - center[0]).abs(), (grid - center[1]).abs()
        inside = {1: y**2 + x**2 < radius**2, 2: torch.maximum(y, x) < 0.9 * radius}.get(
            kind, (torch.minimum(y, x) < radius / 3) & (torch.maximum(y, x) < radius)
        )
        brightness = 0.5 + torch.rand(count, 1, 1, generator=draw)
        images, labels = torch.where(inside, brightness, images), labels.masked_fill(inside, kind)
    return (images + 0.2 * torch.randn(images.shape, generator=draw)).unsqueeze(1), labels


class ShapeSegmenter(nn.Module):
    """A small U-shaped network: one level down, one up, with a connection across.

    Args:
        width: The number of channels of the first layer.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU())
        self.middle = nn.Sequential(nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.ReLU())
        self.features = nn.Sequential(nn.Conv2d(3 * width, width, 3, padding=1), nn.ReLU())
        self.logits = nn.Conv2d(width, CLASSES, 1)

    def forward(self, images: Float[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch classes height width"]:
        """The logits of each pixel."""
        full = self.first(images)
        low = F.interpolate(self.middle(self.down(full)), size=full.shape[2:], mode="bilinear", align_corners=False)
        logits: Tensor = self.logits(self.features(torch.cat([full, low], 1)))
        return logits


def compute_miou(predicted: Int[Tensor, "*pixels"], labels: Int[Tensor, "*pixels"]) -> float:
    """Compute the mean over classes of intersection over union, in percent.

    Example:
        >>> round(compute_miou(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, 2])), 2)
        62.5
    """
    shares = []
    for kind in range(CLASSES):
        ours, theirs = predicted == kind, labels == kind
        shares.append(float((ours & theirs).sum()) / max(float((ours | theirs).sum()), 1.0))
    return 100 * sum(shares) / CLASSES


def _learn(
    network: nn.Module, recipe: Recipe, examples: tuple[Tensor, Tensor], *, seed: int, epochs: int, lr: float = 1e-2,
    test_seed: int = 10**6,
) -> dict[str, float]:  # fmt: skip
    optimizer = Optimizer("adamw", lr=lr, warmup=0.05)
    loader: Any = ShuffledLoader(ArrayDataset(*examples), batch_size=32, seed=seed)
    student = distill(
        network, recipe, loader, seed=seed, epochs=epochs, optimizer=optimizer, accelerator="cpu", log_every=100
    ).finish().student.eval()  # fmt: skip
    images, labels = draw_shapes(TEST, seed=test_seed)
    with torch.no_grad():
        predicted = student(images).argmax(1)
    return {"miou": compute_miou(predicted, labels), "pixels": 100 * float((predicted == labels).float().mean())}


def train_teacher(folder: TaskFolder, *, quick: bool) -> Figures:
    """Train the teacher of all seeds, and save it."""
    with seeded(0):
        network = ShapeSegmenter(TEACHER_WIDTH)
    examples = draw_shapes(TEACHER_IMAGES, seed=10**5)
    recipe = make("supervised", task="segmentation")
    figures = _learn(network, recipe, examples, seed=0, epochs=TEACHER_EPOCHS["quick" if quick else "full"])
    save_weights(network, folder)
    return figures


def train_arm(
    folder: TaskFolder, *, arm: str, seed: int, quick: bool, development: bool = False, lr: float = 1e-2,
    **settings: Any,
) -> Figures:  # fmt: skip
    """Train a student of one arm."""
    teacher = load_weights(ShapeSegmenter(TEACHER_WIDTH), folder, "teacher")
    relations: dict[str, Any] = {"teacher": teacher, "at": "features", "student_at": "features", "size": 8}
    task = {"task": "segmentation", **settings}
    recipes = {
        "alone": lambda: make("supervised", **task),
        "kd": lambda: make("hinton", teacher=teacher, **task),
        "drd": lambda: make("drd", **relations, **task),
        "kd and drd": lambda: make("drd", **relations, **task),
    }
    with seeded(seed):
        network = ShapeSegmenter(STUDENT_WIDTH)
    images, epochs = STUDENT["quick" if quick else "full"]
    return _learn(
        network, recipes[arm](), draw_shapes(images, seed=seed), seed=seed, epochs=epochs, lr=lr,
        test_seed=10**6 + 1 if development else 10**6,
    )  # fmt: skip


def _teacher_rows(scale: ExperimentScale, results: Results) -> list[Row]:
    del scale
    return [Row("the teacher: mIoU", [results["teacher"]["miou"]], "%", lower_is_better=False)]


def describe_training(scale: ExperimentScale) -> str:
    """Data, networks and training in a sentence."""
    images, epochs = STUDENT[scale.name]
    return (
        f"Drawn images of {SIZE} x {SIZE} pixels with a disc, a square and a cross under noise. One U-shaped teacher "
        f"of width {TEACHER_WIDTH} learns {TEACHER_IMAGES} of them in {TEACHER_EPOCHS[scale.name]} epochs, students of "
        f"width {STUDENT_WIDTH} learn {images} others for each seed in {epochs} epochs with batches of 32; {TEST} test "
        "images."
    )


RATES = [{"lr": lr} for lr in (1e-2, 2e-2, 4e-2)]
SOFT = [
    {"lr": 1e-2, "temperature": 4.0, "weight": 0.9},
    *({"lr": lr, "temperature": 2.0, "weight": 0.5} for lr in (1e-2, 2e-2)),
]
RELATIONS = [{"lr": 1e-2}, {"lr": 2e-2}, {"lr": 2e-2, "spatial_weight": 1.0, "channel_weight": 1.0}]
BOTH = [{**settings, "soft_weight": 0.9} for settings in RELATIONS]
STUDY = ClaimStudy(
    "shapes", "Do relations of positions and channels teach a small segmentation network?", ARMS, train_arm,
    (MIOU, PIXELS),
    [
        Claim.of_difference("drd", "alone", MIOU),
        Claim.of_difference("drd", "kd", MIOU),
        Claim.of_difference("kd and drd", "kd", MIOU),
    ],
    {"quick": 4, "full": 20},
    shared=lambda scale: [WorkItem("teacher", partial(train_teacher, quick=scale.quick), (), 20.0)],
    requires=lambda _: ("teacher",), rows=_teacher_rows, describe=describe_training,
    search=SettingsSearch({"alone": RATES, "kd": SOFT, "drd": RELATIONS, "kd and drd": BOTH}, MIOU),
)  # fmt: skip

EXPERIMENTS = (STUDY.experiment(),)
TITLE = (
    "Li, Shan, Wang, Lv, Luo and Chen, Building Lightweight Semantic Segmentation Models for Aerial Images Using Dual "
    "Relation Distillation, 2025, arXiv:2506.20688"
)
CLAIM = "Relations between positions and between channels improve a small segmentation network."
