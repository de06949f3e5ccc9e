"""Dual relation distillation: relations between the positions of a map, and between its channels."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional import KernelClaim, kernel
from limbeck.functional.connectors import Connector
from limbeck.functional.directions import inner_products
from limbeck.functional.relations import flatten_channels, normalize_rows
from limbeck.functional.row_blocks import compute_by_examples
from limbeck.losses import Loss, Objective
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.features.layers import Layers, pair_layers
from limbeck.methods.relations.objective import add_targets, sum_objectives
from limbeck.methods.support import check_count, check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task


@kernel(per="example")
def spatial_relation_squared_error(
    student: Float[Tensor, "batch ..."],
    teacher: Float[Tensor, "batch ..."],
    mask: Bool[Tensor, "batch ..."] | None = None,
    *,
    size: int = 16,
) -> Float[Tensor, " batch"]:
    r"""Compute the mean squared difference of the cosines between positions, one value for each example.

    :math:`\frac{1}{n^2} \|S_S - S_T\|_F^2` with :math:`S_{ij} = \cos(f_i, f_j)`, where :math:`f_i` has all channels at
    position i of n. Both maps are first averaged to the smaller of their heights and widths, at most `size` in each
    direction, which bounds the memory: size^4 numbers for each example.

    It does not depend on the number of channels, nor on an orthogonal mixing of the channels.

    Args:
        student: Features of the student.
        teacher: Features of the teacher, with any number of channels.
        mask: True where a token counts; pairs with others are left out.
        size: The largest height and width at which maps are compared.

    Raises:
        LimbeckError: If tokens do not have as many positions on both sides.

    Example:
        >>> import torch
        >>> spatial_relation_squared_error(torch.eye(2).reshape(1, 2, 1, 2), torch.ones(1, 1, 1, 2))
        tensor([0.5000])

    Source: Li et al., 2025, arXiv:2506.20688.
    """
    if student.ndim == teacher.ndim == 4:
        (height, width), (its_height, its_width) = student.shape[2:], teacher.shape[2:]
        target = (min(height, its_height, size), min(width, its_width, size))
        student, teacher = _shrink(student, target), _shrink(teacher, target)
    ours, theirs = flatten_channels(student, mask), flatten_channels(teacher, mask)
    if ours.shape[2] != theirs.shape[2]:
        raise LimbeckError(
            f"Positions are compared with positions: {ours.shape[2]} of the student and {theirs.shape[2]} of the "
            "teacher. Maps of other sizes are averaged, tokens are not: use layers with as many positions."
        )
    difference = (_cosines(ours.transpose(1, 2)) - _cosines(theirs.transpose(1, 2))).square()
    if mask is None or mask.ndim != 2 or student.ndim != 3:
        return difference.flatten(1).mean(1)
    counts = mask.to(difference.dtype)
    pairs = counts.unsqueeze(1) * counts.unsqueeze(2)
    return (difference * pairs).sum((1, 2)) / pairs.sum((1, 2)).clamp_min(1.0)


@kernel(per="example")
def channel_relation_squared_error(
    student: Float[Tensor, "batch ..."],
    teacher: Float[Tensor, "batch ..."],
    mask: Bool[Tensor, "batch ..."] | None = None,
) -> Float[Tensor, " batch"]:
    r"""Compute the mean squared difference of the cosines between channels, one value for each example.

    :math:`\frac{1}{c^2} \|R_S - R_T\|_F^2` with :math:`R_{mn} = \cos(F_m, F_n)`, where :math:`F_m` has channel m at all
    positions. The order of the positions does not matter, and the two maps may differ in size.

    Args:
        student: Features of the student, after its head: as many channels as the teacher's.
        teacher: Features of the teacher.
        mask: True where a token counts; the others are 0 in both.

    Raises:
        LimbeckError: If the numbers of channels differ.

    Example:
        >>> import torch
        >>> channel_relation_squared_error(torch.eye(2).reshape(1, 2, 1, 2), torch.ones(1, 2, 1, 1))
        tensor([0.5000])

    Source: Li et al., 2025, arXiv:2506.20688.
    """
    ours, theirs = (flatten_channels(features[:0]).shape[1] for features in (student, teacher))
    if ours != theirs:
        raise LimbeckError(
            f"Channels are compared with channels: {ours} of the student and {theirs} of the teacher. Use a head: "
            "Loss(..., head=Connector())."
        )

    def compute(student: Tensor, teacher: Tensor, *mask: Tensor) -> Tensor:
        relations = (_cosines(flatten_channels(features, *mask)) for features in (student, teacher))
        return (next(relations) - next(relations)).square().flatten(1).mean(1)

    return compute_by_examples(compute, student, teacher, *(() if mask is None else (mask,)))


def _shrink(maps: Tensor, target: tuple[int, int]) -> Tensor:
    """Average maps to a size; PyTorch refuses a batch without examples."""
    return F.adaptive_avg_pool2d(maps, target) if len(maps) else maps[..., : target[0], : target[1]]


def _cosines(rows: Float[Tensor, "batch rows features"]) -> Float[Tensor, "batch rows rows"]:
    return inner_products(normalize_rows(rows))


_MAPS: dict[str, Any] = {"logits": False, "zero_at_equality": True, "channels": 1, "shape": (4, 3, 3)}
_TOKENS: dict[str, Any] = {"logits": False, "zero_at_equality": True, "shape": (6, 5), "positions": 1}

CARD = MethodCard(
    name="drd",
    title="Building Lightweight Semantic Segmentation Models for Aerial Images Using Dual Relation Distillation",
    authors="Li, Shan, Wang, Lv, Luo and Chen",
    year=2025,
    arxiv="2506.20688",
    venue="arXiv",
    claim="The student learns which positions of a map are alike for the teacher, and which of its channels are.",
    when="For segmentation, at a layer near the output. Only the abstract of the paper was available here: the "
    "relations are cosines, and the weights are a choice, so tune them. Compare with hinton, "
    "which compares the classes of each pixel, and with ickd, which has the relations of channels alone.",
    bibtex="""@article{li2025building,
  title = {Building Lightweight Semantic Segmentation Models for Aerial Images Using Dual Relation Distillation},
  author = {Li, Minglong and Shan, Lianlei and Wang, Weiqiang and Lv, Ke and Luo, Bin and Chen, Si-Bao},
  journal = {arXiv preprint arXiv:2506.20688},
  year = {2025}
}""",
    reads=("features",),
    example={"at": "layer2", "student_at": "layer2"},
    ranges={
        "spatial_weight": SearchRange(0.1, 100.0, log=True),
        "channel_weight": SearchRange(0.1, 100.0, log=True),
    },
    tasks=("classification", "multi_label", "regression", "segmentation", "language_modeling"),
    kernels=(
        KernelClaim(
            spatial_relation_squared_error,
            pairs=True,
            **_MAPS,
            teacher_shape=(6, 3, 3),
            invariances=(
                "student_scale", "teacher_scale", "student_rotation", "teacher_rotation", "joint_flip",
                "joint_position_permutation",
            ),
        ),
        KernelClaim(spatial_relation_squared_error, **_MAPS, teacher_shape=(6, 4, 4), hyper={"size": 2}),
        KernelClaim(spatial_relation_squared_error, **_TOKENS),
        KernelClaim(
            channel_relation_squared_error,
            **_MAPS,
            teacher_shape=(4, 2, 2),
            invariances=(
                "student_scale", "teacher_scale", "student_position_permutation", "teacher_position_permutation",
                "joint_channel_permutation",
            ),
        ),
        KernelClaim(channel_relation_squared_error, **_TOKENS),
    ),
)  # fmt: skip


@validates_arguments
def drd(
    teacher: Any,
    *,
    at: Layers,
    student_at: Layers,
    spatial_weight: float = 10.0,
    channel_weight: float = 10.0,
    size: int = 16,
    labels: bool = True,
    soft_weight: float = 0.0,
    temperature: float | None = None,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn labels, and two relations of the teacher's maps: :math:`-\log q_y + a \sum_l L_S + b \sum_l L_R`.

    :math:`L_S` is the mean of `spatial_relation_squared_error`, :math:`L_R` that of `channel_relation_squared_error`,
    for which a learned 1x1 convolution maps the student's channels to the teacher's; it is dropped afterwards.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        at: Name of the teacher's layer, or of several.
        student_at: Name of the student's layer, or of as many.
        spatial_weight: a, the weight of the relations between positions, at least 0; a choice, see the page.
        channel_weight: b, the weight of the relations between channels, at least 0; likewise.
        size: The largest height and width at which positions are compared; larger maps are averaged.
        labels: Whether to use labels. False drops the label term.
        soft_weight: Weight of the soft targets of `hinton`, at least 0.
        temperature: T of the soft targets, above 0; 4 by default.
        task: What the targets are; the losses of labels and soft targets are its own.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If a weight is negative, both weights of relations are 0, `size` is no whole number from 1,
            `temperature` is not above 0 or has no soft targets, or there are more layers of one model.

    Example:
        >>> from torch import nn
        >>> recipe = drd(nn.Conv2d(1, 3, 1), at="layer2", student_at="layer1", channel_weight=0.0)
        >>> [stage.name for stage in recipe.stages()]
        ['drd']

    Source: Li et al., 2025, arXiv:2506.20688.
    """
    check_weight(spatial_weight=spatial_weight, channel_weight=channel_weight)
    check_count(size=size)
    relations: list[Objective] = []
    for mine, its in pair_layers(at, student_at):
        if spatial_weight:
            relations.append(
                spatial_weight * Loss(spatial_relation_squared_error, student=mine, teacher=its, size=size)
            )
        if channel_weight:
            channels = Loss(channel_relation_squared_error, student=mine, teacher=its, head=Connector())
            relations.append(channel_weight * channels)
    if not relations:
        raise ArgumentError(
            "spatial_weight=0 and channel_weight=0 leave no relation to learn; raise one, or use supervised or hinton.",
            argument="spatial_weight",
        )
    objective = add_targets(
        sum_objectives(relations), CARD.get_task(task),
        labels=labels, soft_weight=soft_weight, temperature=temperature,
    )  # fmt: skip
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="drd"))
