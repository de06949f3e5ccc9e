"""WKD-F: the Wasserstein distance between Gaussians of the features of student and teacher."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.functional import KernelClaim, kernel
from limbeck.functional.connectors import Connector
from limbeck.functional.feature_maps import position_mask, safe_root, to_positions
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.features.layers import Layers, add_losses, pair_layers
from limbeck.methods.logits.wkd import CARD as WKD
from limbeck.methods.support import check_count, check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task


@kernel(per="example")
def gaussian_transport(
    student: Float[Tensor, "batch ..."],
    teacher: Float[Tensor, "batch ..."],
    mask: Bool[Tensor, "batch ..."] | None = None,
    *,
    mean_weight: float = 1.0,
    grid: int = 1,
) -> Float[Tensor, " batch"]:
    r"""Compute the squared Wasserstein distance of two Gaussians with diagonal covariances, summed over channels.

    :math:`\gamma \|\mu_T - \mu_S\|^2 + \|\sigma_T - \sigma_S\|^2`, with the mean and the standard deviation of each
    channel over the positions of an example (divided by their number, without a correction). With :math:`\gamma = 1` it
    is :math:`W_2^2`. As only these are compared, the order of positions does not matter, and student and teacher may
    have different numbers of them. Features without positions have the deviation 0, so their means alone count.

    With a grid, maps are cut into grid x grid parts, as adaptive pooling does, and the value is the mean over parts.

    Args:
        student: Features of the student, with the channels of the teacher.
        teacher: Features of the teacher.
        mask: Which positions of tokens count. An example without any has the value 0.
        mean_weight: :math:`\gamma`, the weight of the means.
        grid: Parts of maps in each direction, at least 1; tokens and rows are one part.

    Raises:
        LimbeckError: If the numbers of channels differ.

    Example:
        >>> gaussian_transport(torch.tensor([[[0.0], [2.0]]]), torch.tensor([[[1.0], [5.0]]]))
        tensor([5.])

    Source: Lv, Yang and Li, 2024, arXiv:2412.08139, section 3.2.
    """
    values = [
        _compare_parts(ours, theirs, mask, mean_weight)
        for ours, theirs in zip(_cut(student, grid), _cut(teacher, grid), strict=True)
    ]
    return torch.stack(values).mean(0)


def _cut(features: Tensor, grid: int) -> list[Tensor]:
    """The parts of maps, row by row; other features are one part."""
    if features.ndim != 4 or grid == 1:
        return [features]
    rows, columns = (_find_edges(size, grid) for size in features.shape[2:])
    return [features[:, :, top:bottom, left:right] for top, bottom in rows for left, right in columns]


def _find_edges(size: int, parts: int) -> list[tuple[int, int]]:
    """Start and end of each part, those of adaptive pooling: parts overlap where `size` is no multiple of `parts`."""
    return [(part * size // parts, math.ceil((part + 1) * size / parts)) for part in range(parts)]


def _compare_parts(student: Tensor, teacher: Tensor, mask: Tensor | None, mean_weight: float) -> Tensor:
    ours, theirs = _describe(student, mask), _describe(teacher, mask)
    if ours[0].shape != theirs[0].shape:
        raise LimbeckError(
            f"The student has {ours[0].shape[1]} channels and the teacher {theirs[0].shape[1]}. Use a head: "
            "Loss(..., head=Connector())."
        )
    means, deviations = ((mine - its).square().sum(1) for mine, its in zip(ours, theirs, strict=True))
    return mean_weight * means + deviations


def _describe(features: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over the positions that count."""
    where, rows = position_mask(mask, features), to_positions(features)
    if where is None:
        mean = rows.mean(1)
        return mean, safe_root((rows - mean.unsqueeze(1)).square().mean(1))
    count = where.sum(1).clamp_min(1)
    mean = rows.masked_fill(~where, 0.0).sum(1) / count
    apart = (rows - mean.unsqueeze(1)).masked_fill(~where, 0.0)
    return mean, safe_root(apart.square().sum(1) / count)


_SAMPLE: dict[str, Any] = {"logits": False, "zero_at_equality": True, "largest": 1e15, "channels": 1}
_ANY_ORDER = ("student_position_permutation", "teacher_position_permutation", "joint_channel_permutation")

CARD = MethodCard(
    name="wkd_f",
    title="Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation",
    authors="Lv, Yang and Li",
    year=2024,
    arxiv="2412.08139",
    venue="NeurIPS 2024",
    claim="The features of an example, over its positions, are a Gaussian: the student moves its own to the teacher's "
    "by the Wasserstein distance, which also compares distributions that do not overlap.",
    when="For networks with maps or tokens of any size, at the last layer before pooling. Positions are not matched, "
    "so it fits where student and teacher look at different places. For logits the same paper has wkd.",
    bibtex=WKD.bibtex,
    reads=("features",),
    labels="few",
    example={"at": "layer2", "student_at": "layer2"},
    ranges={"weight": SearchRange(1e-3, 1.0, log=True), "mean_weight": SearchRange(0.5, 8.0, log=True)},
    tasks=("classification", "multi_label", "regression", "segmentation", "language_modeling"),
    kernels=(
        KernelClaim(gaussian_transport, shape=(3, 2, 4), invariances=_ANY_ORDER, **_SAMPLE),
        KernelClaim(gaussian_transport, shape=(3, 4, 4), hyper={"mean_weight": 4.0, "grid": 2},
                    invariances=("joint_channel_permutation", "joint_flip"), **_SAMPLE),
    ),
    keywords=("wkd", "optimal transport"),
)  # fmt: skip


@validates_arguments
def wkd_f(
    teacher: Any,
    *,
    at: Layers,
    student_at: Layers,
    weight: float = 0.006,
    mean_weight: float = 4.0,
    grid: int = 1,
    activation: bool = True,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn from labels and Gaussians of features: :math:`L_{task} + w (\gamma \|\Delta\mu\|^2 + \|\Delta\sigma\|^2)`.

    The student's features go through a learned 1x1 convolution to the teacher's channels, a BatchNorm and a ReLU, which
    are dropped after training.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run. It needs the layers `at`.
        at: The teacher's layers, one name or a list; the last one before pooling in the paper.
        student_at: The student's layers, in the same order.
        weight: w, at least 0; 0.006 for the pair of ResNets in the authors' configuration for CIFAR-100, 0.02 for
            ImageNet. The distance is a sum over channels: fewer channels need a larger one.
        mean_weight: Gamma, the weight of the means, at least 0; 4 in the same configuration, 2 for ImageNet.
        grid: Parts of maps in each direction, each with a Gaussian of its own; 1 in the same configuration.
        activation: Whether a ReLU follows the map of the student's features. False for a layer of the teacher that has
            negative values.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If the lists have different lengths, a weight is negative, or `grid` is below 1.

    Example:
        >>> from torch import nn
        >>> recipe = wkd_f(nn.Linear(4, 3), at="layer2", student_at="layer2")
        >>> [sorted(stage.objective.named_leaves()) for stage in recipe.stages()]
        [['cross_entropy', 'gaussian_transport@layer2']]

    Source: Lv, Yang and Li, 2024, arXiv:2412.08139, section 3.2.
    """
    check_weight(weight=weight, mean_weight=mean_weight)
    check_count(grid=grid)
    distances = add_losses(
        Loss(
            gaussian_transport, student=ours, teacher=theirs, head=Connector(norm=True, activation=activation),
            mean_weight=mean_weight, grid=grid,
        )
        for ours, theirs in pair_layers(at, student_at)
    )  # fmt: skip
    objective = CARD.get_task(task).supervised_loss() + weight * distances
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="wkd_f"))
