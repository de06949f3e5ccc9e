"""ReviewKD: the student's deep layers, fused step by step into its early ones, match the teacher's early layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.batch import Batch, Progress
from limbeck.errors import LimbeckError
from limbeck.functional import KernelClaim, kernel
from limbeck.functional.connectors import as_maps, channels
from limbeck.functional.feature_maps import pool_to
from limbeck.losses import LossContext
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.features.feature_term import FeatureTerm
from limbeck.methods.features.layers import Layers, pair_layers
from limbeck.methods.support import check_count, check_share, check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.schedule import ramp
from limbeck.tasks import Task

_SIDES = (4, 2, 1)
"""The sides to which maps are pooled, each with half the weight of the one before."""


@kernel(per="example")
def hierarchical_context_loss(
    student: Float[Tensor, "batch channels height width"], teacher: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, " batch"]:
    r"""Compute the squared error of two maps at their own size, and averaged to 4x4, 2x2 and 1x1 (HCL).

    :math:`\frac{\sum_l w_l \, mean (S_l - T_l)^2}{\sum_l w_l}` with weight 1 for the size of the maps, and 1/2, 1/4,
    1/8 for 4x4, 2x2, 1x1. A size that is not below the height of the maps is left out.

    Args:
        student: Maps of the student, after its fusion.
        teacher: Maps of the teacher, of the same shape.

    Raises:
        LimbeckError: If the shapes differ. In float32 it overflows for differences above 1e19.

    Example:
        >>> hierarchical_context_loss(torch.zeros(1, 1, 2, 2), torch.tensor([[[[1.0, -1.0], [1.0, -1.0]]]])).item()
        0.8888888955116272

    Source: Chen, Liu, Zhao and Jia, 2021, arXiv:2104.09044, section 3.4 and the authors' code, which has the weights.
    """
    if student.shape != teacher.shape:
        raise LimbeckError(f"The student's maps are {tuple(student.shape)} and the teacher's {tuple(teacher.shape)}.")
    # Pooling is linear, so the differences are pooled.
    difference = student - teacher
    total, weights, weight = difference.square().flatten(1).mean(1), 1.0, 1.0
    for place, side in enumerate(_SIDES, 1):
        weight = 0.5**place
        if side < difference.shape[2]:
            total = total + weight * pool_to(difference, (side, side)).square().flatten(1).mean(1)
            weights += weight
    return total / weights


CARD = MethodCard(
    name="reviewkd",
    title="Distilling Knowledge via Knowledge Review",
    authors="Chen, Liu, Zhao and Jia",
    year=2021,
    arxiv="2104.09044",
    venue="CVPR 2021",
    claim="Each layer of the teacher teaches all deeper layers of the student, which learned attention maps fuse from "
    "the last to the first.",
    when="For networks with maps, with one layer of each stage, from the first to the last; the pooled features may be "
    "the last. The fusion needs memory and time in training, and is dropped afterwards.",
    bibtex="""@inproceedings{chen2021distilling,
  title = {Distilling Knowledge via Knowledge Review},
  author = {Chen, Pengguang and Liu, Shu and Zhao, Hengshuang and Jia, Jiaya},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2021},
  eprint = {2104.09044},
  archivePrefix = {arXiv}
}""",
    reads=("features",),
    labels="few",
    example={"at": ["layer1", "layer2"], "student_at": ["layer1", "layer2"]},
    ranges={"weight": SearchRange(0.3, 30.0, log=True), "warmup": SearchRange(0.0, 0.3)},
    trials=("cnn", "resnet"),
    tasks=("classification", "multi_label", "regression", "segmentation"),
    kernels=(
        KernelClaim(
            hierarchical_context_loss,
            logits=False,
            zero_at_equality=True,
            shape=(2, 5, 5),
            channels=1,
            largest=1e15,
            invariances=("joint_channel_permutation",),
        ),
    ),
)


class Fusion(nn.Module):
    """Attention-based fusion (ABF): a layer and what the deeper layers left, weighted pixel by pixel.

    Args:
        width: The student's channels.
        mid: The channels of the fusion.
        out: The teacher's channels.
        fuses: Whether there is a deeper layer.
    """

    def __init__(self, width: int, mid: int, out: int, *, fuses: bool) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(width, mid, 1, bias=False), nn.BatchNorm2d(mid))
        self.leave = nn.Sequential(nn.Conv2d(mid, out, 3, padding=1, bias=False), nn.BatchNorm2d(out))
        self.attention = nn.Sequential(nn.Conv2d(2 * mid, 2, 1), nn.Sigmoid()) if fuses else None

    def forward(self, maps: Tensor, deeper: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The maps for the teacher's layer, and those that are left for the next one.

        Args:
            maps: The student's maps.
            deeper: What the deeper layer left; None for the deepest.
            size: Height and width of the teacher's maps.
        """
        mixed = self.enter(maps)
        if self.attention is not None and deeper is not None:
            deeper = F.interpolate(deeper, size=mixed.shape[2:], mode="nearest")
            share = self.attention(torch.cat([mixed, deeper], 1))
            mixed = mixed * share[:, :1] + deeper * share[:, 1:]
        if mixed.shape[2:] != size:
            mixed = F.interpolate(mixed, size=size, mode="nearest")
        return self.leave(mixed), mixed


class KnowledgeReview(FeatureTerm):
    """`hierarchical_context_loss` between the fused layers of the student and the layers of the teacher, summed."""

    name = "knowledge_review"

    def __init__(self, pairs: Sequence[tuple[str, str]], mid: int) -> None:
        super().__init__(pairs)
        self.mid = mid
        self.fusions = nn.ModuleList()

    def build(self, ours: list[Tensor], theirs: list[Tensor], context: LossContext) -> None:
        """Create a fusion for each pair of layers."""
        widths = [(channels(as_maps(mine)), channels(as_maps(its))) for mine, its in zip(ours, theirs, strict=True)]
        self.fusions = nn.ModuleList(
            Fusion(width, self.mid, out, fuses=place + 1 < len(widths)) for place, (width, out) in enumerate(widths)
        )

    def compare(
        self, ours: list[Tensor], theirs: list[Tensor], batch: Batch, progress: Progress
    ) -> Float[Tensor, " batch"]:
        """The sum over the layers, from the last to the first."""
        left: Tensor | None = None
        values = []
        for mine, its, fusion in reversed(list(zip(ours, theirs, self.fusions, strict=True))):
            its = as_maps(its)
            fused, left = cast(Fusion, fusion)(as_maps(mine), left, (its.shape[2], its.shape[3]))
            values.append(hierarchical_context_loss(fused, its))
        return torch.stack(values).sum(0)

    def __repr__(self) -> str:
        return f"KnowledgeReview({list(self.pairs)}, mid={self.mid})"


@validates_arguments
def reviewkd(
    teacher: Any,
    *,
    at: Layers,
    student_at: Layers,
    weight: float = 5.0,
    warmup: float = 0.08,
    mid: int = 256,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn from labels and the reviewed layers: :math:`L_{task} + \lambda \sum_i HCL(ABF(s_i, f_{i+1}), t_i)`.

    Going from the last layer to the first, the student's layer :math:`s_i` is fused with what the deeper layers left,
    :math:`f_{i+1}`, by two learned attention maps, and compared with the teacher's layer (`hierarchical_context_loss`).
    The fusions are dropped after training.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run. It needs the layers `at`.
        at: The teacher's layers with maps, from the first to the last; one name or a list. Rows of features count as
            maps of one pixel.
        student_at: The student's layers, in the same order.
        weight: Lambda, at least 0.
        warmup: The share of the training in which lambda grows from 0, from 0 to 1. The authors' code takes 20 of 240
            epochs.
        mid: The channels of the fusions; 256 in the authors' code for wide networks.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If the lists have different lengths, or a number is out of range.

    Example:
        >>> recipe = reviewkd(nn.Linear(4, 3), at=["layer1", "layer2"], student_at=["layer1", "layer2"])
        >>> [sorted(stage.objective.named_leaves()) for stage in recipe.stages()]
        [['cross_entropy', 'knowledge_review']]

    Source: Chen, Liu, Zhao and Jia, 2021, arXiv:2104.09044, section 3.
    """
    check_weight(weight=weight)
    check_share(warmup=warmup)
    check_count(mid=mid)
    review = KnowledgeReview(pair_layers(at, student_at), mid)
    growing = ramp(weight, until=warmup) if warmup else weight
    objective = CARD.get_task(task).supervised_loss() + growing * review
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="reviewkd"))
