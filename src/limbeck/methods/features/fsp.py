"""FSP: the student learns how the teacher gets from one layer to a later one, as the products of both."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional import KernelClaim, kernel
from limbeck.functional.connectors import Connector
from limbeck.functional.feature_maps import pool_to, position_mask, to_positions
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard
from limbeck.methods.features.layers import Layers, add_losses, pair_layers
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task


@kernel(per="example")
def fsp_distance(
    low: Float[Tensor, "batch ..."],
    high: Float[Tensor, "batch ..."],
    teacher_low: Float[Tensor, "batch ..."],
    teacher_high: Float[Tensor, "batch ..."],
    mask: Bool[Tensor, "batch ..."] | None = None,
) -> Float[Tensor, " batch"]:
    r"""Compute the squared distance of two FSP matrices (flow of the solution procedure).

    :math:`\| G_S - G_T \|_F^2` with :math:`G_{ij} = \frac{1}{P} \sum_p F^{low}_{pi} F^{high}_{pj}`, the products of the
    channels of two layers, averaged over the P positions. Of two maps of different sizes the larger is max-pooled to
    the smaller, as in the paper. Student and teacher may have maps of different sizes, but need as many channels.

    Args:
        low: The student's earlier layer, ``[batch, channels, height, width]``, ``[batch, positions, channels]`` or
            ``[batch, channels]``.
        high: The student's later layer.
        teacher_low: The teacher's earlier layer.
        teacher_high: The teacher's later layer.
        mask: Which positions of tokens count.

    Raises:
        LimbeckError: If the numbers of channels differ. In float32 it overflows for features above about 1e9.

    Example:
        >>> import torch
        >>> a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]])
        >>> fsp_distance(a, b, torch.zeros(1, 2), b).item()
        45.0

    Source: Yim, Joo, Bae and Kim, A Gift from Knowledge Distillation, CVPR 2017, equations 1 and 2.
    """
    ours, theirs = _fsp_matrix(low, high, mask), _fsp_matrix(teacher_low, teacher_high, mask)
    if ours.shape != theirs.shape:
        raise LimbeckError(
            f"The student's FSP matrix is {tuple(ours.shape[1:])} and the teacher's {tuple(theirs.shape[1:])}: the "
            "paper compares layers of equal width. Name such layers, or set projector=True."
        )
    return (ours - theirs).square().sum((1, 2))


def _fsp_matrix(low: Tensor, high: Tensor, mask: Tensor | None) -> Tensor:
    where = position_mask(mask, low)
    if low.ndim == high.ndim == 4:
        size = (min(low.shape[2], high.shape[2]), min(low.shape[3], high.shape[3]))
        low, high = pool_to(low, size, largest=True), pool_to(high, size, largest=True)
    low, high = to_positions(low), to_positions(high)
    if low.shape[1] != high.shape[1]:
        raise LimbeckError(
            f"The two layers of an FSP matrix have {low.shape[1]} and {high.shape[1]} positions; name two layers with "
            "maps, or two with as many tokens."
        )
    if where is None:
        return low.transpose(1, 2) @ high / low.shape[1]
    return (
        low.masked_fill(~where, 0.0).transpose(1, 2)
        @ high.masked_fill(~where, 0.0)
        / where.sum(1, keepdim=True).clamp_min(1)
    )


CARD = MethodCard(
    name="fsp",
    title="A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer Learning",
    authors="Yim, Joo, Bae and Kim",
    year=2017,
    arxiv=None,
    venue="CVPR 2017",
    claim="The student first learns the products of two layers of the teacher, the flow from one to the other, and "
    "then the labels.",
    when="For a student of the same family as its teacher, with layers of equal width and less depth: the paper "
    "initializes it so that it learns faster. Name the first and the last layer of each stage of the network.",
    bibtex="""@inproceedings{yim2017gift,
  title = {A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer Learning},
  author = {Yim, Junho and Joo, Donggyu and Bae, Jihoon and Kim, Junmo},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  pages = {4133--4141},
  year = {2017}
}""",
    reads=("features",),
    labels="few",
    example={"at": ["layer1", "layer2"], "student_at": ["layer1", "layer2"], "projector": True},
    tasks=("classification", "multi_label", "regression", "segmentation", "language_modeling"),
    kernels=(
        KernelClaim(
            fsp_distance, student=("low", "high"), teacher=("teacher_low", "teacher_high"), zero_at_equality=True,
            logits=False, shape=(3, 2, 4), largest=1e7, channels=1,
            invariances=("joint_channel_permutation", "student_flip", "teacher_flip"),
        ),
    ),
)  # fmt: skip


@validates_arguments
def fsp(
    teacher: Any,
    *,
    at: Layers,
    student_at: Layers,
    projector: bool = False,
    fsp_epochs: int | None = None,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Train in two stages: first the FSP matrices of the teacher, then the labels.

    1. :math:`\sum_i \| G_i^S - G_i^T \|_F^2`, see `fsp_distance`, with one matrix for each layer and the next in the
       list.
    2. The loss of the labels alone, from these weights.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run. It needs the layers `at`.
        at: The teacher's layers in order, two or more.
        student_at: The student's layers in the same order.
        projector: Whether a learned linear map brings each layer of the student to the width of the teacher's. It is
            dropped after the first stage. The paper has none, and compares layers of equal width.
        fsp_epochs: Passes of the first stage; the run's budget by default.
        task: What the targets are; the second stage takes its loss from it.
        epochs: Passes of the second stage; the run's budget by default.

    Raises:
        LimbeckError: If there are fewer than two layers, or the lists have different lengths.

    Example:
        >>> from torch import nn
        >>> recipe = fsp(nn.Linear(4, 3), at=["layer1", "layer2"], student_at=["layer1", "layer2"])
        >>> [stage.name for stage in recipe.stages()]
        ['fsp', 'labels']

    Source: Yim, Joo, Bae and Kim, CVPR 2017, section 3 and algorithm 1.
    """
    pairs = pair_layers(at, student_at)
    if len(pairs) < 2:
        raise ArgumentError(
            f"at needs two layers or more, such as [layer1, layer2]: an FSP matrix is of two; got {at!r}.",
            argument="at",
        )
    flows = add_losses(
        Loss(
            fsp_distance,
            student={"low": ours, "high": ours_next},
            teacher={"teacher_low": theirs, "teacher_high": theirs_next},
            head={"low": Connector(), "high": Connector()} if projector else None,
        )
        for (ours, theirs), (ours_next, theirs_next) in pairwise(pairs)
    )
    task = CARD.get_task(task)
    return Recipe(
        Stage(flows, teacher=teacher, epochs=fsp_epochs, name="fsp"),
        Stage(task.supervised_loss(), epochs=epochs, name="labels"),
    )
