"""Attention transfer: the student has its large activations at the same positions as the teacher."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional import KernelClaim, kernel
from limbeck.functional.directions import compare_directions, sum_of_squares
from limbeck.functional.feature_maps import match_positions, position_mask, safe_normalize, safe_root, unit_scale
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.features.layers import Layers, add_losses, pair_layers
from limbeck.methods.support import check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task


@kernel(per="example")
def attention_distance(
    student: Float[Tensor, "batch ..."],
    teacher: Float[Tensor, "batch ..."],
    mask: Bool[Tensor, "batch ..."] | None = None,
    *,
    power: float = 2.0,
    squared: bool = False,
) -> Float[Tensor, " batch"]:
    r"""Compute the distance of two attention maps, divided by the number of positions.

    The attention map of features A is :math:`Q_i = \sum_c |A_{ci}|^p`, one value for each of the P positions. The value
    is :math:`\frac{1}{P} \| Q_S / \|Q_S\|_2 - Q_T / \|Q_T\|_2 \|_2`, from 0 to :math:`\sqrt 2 / P`. It does not depend
    on the scale of either side, and the numbers of channels may differ. Of maps of different sizes, the features of the
    larger one are averaged to the smaller size.

    Args:
        student: Features of the student, ``[batch, channels, height, width]`` or ``[batch, positions, channels]``.
        teacher: Features of the teacher.
        mask: Which positions of tokens count. The others are left out of the maps.
        power: p, above 0. A larger one gives more weight to the largest activations.
        squared: Whether to square the norm, as the authors' code does.

    Raises:
        LimbeckError: If there is only one position, so that every map is 1, or `power` is not above 0.

    Example:
        >>> import torch
        >>> one, other = torch.tensor([[[3.0], [0.0]]]), torch.tensor([[[0.0], [7.0]]])
        >>> round(attention_distance(one, other).item(), 4), attention_distance(one, 5 * one).item()
        (0.7071, 0.0)

    Source: Zagoruyko and Komodakis, 2016, arXiv:1612.03928, equations 1 and 2.
    """
    _check_power(power)
    where = position_mask(mask, student)
    student, teacher = match_positions(student, teacher)
    positions = student.shape[1]
    if positions < 2:
        raise LimbeckError(
            "An attention map has one value for each position, and these features have only one position: the loss "
            "would always be 0. Name a layer with maps [batch, channels, height, width] or tokens."
        )
    if where is not None:
        student, teacher = student.masked_fill(~where, 0.0), teacher.masked_fill(~where, 0.0)
    half = compare_directions(sum_of_squares(student), sum_of_squares(teacher)) if power == 2 else None
    distance = _distance(student, teacher, power) if half is None else 2 * half
    counted = positions if where is None else where.sum((1, 2)).clamp_min(1)
    return (distance if squared else safe_root(distance)) / counted


def _distance(student: Tensor, teacher: Tensor, power: float) -> Tensor:
    """The squared distance of the maps, for features of any size."""
    ours, theirs = (_attention_map(features, power) for features in (student, teacher))
    return (ours - theirs).square().sum(-1)


def _attention_map(features: Tensor, power: float) -> Tensor:
    scaled = unit_scale(features)
    # For p = 2 the power of a square is exact, and its slope at 0 is finite.
    energy = scaled.square() if power == 2 else _power(scaled.abs(), power)
    return safe_normalize(energy.sum(-1))


def _power(values: Tensor, power: float) -> Tensor:
    """Values of at least 0 to a power, with a gradient of 0 at 0."""
    positive = values > 0
    return values.where(positive, 1.0).pow(power).where(positive, 0.0)


def _check_power(power: float) -> None:
    if not power > 0 or power == float("inf"):
        raise ArgumentError(f"power is a finite number above 0; got {power!r}. The paper uses 2.", argument="power")


CARD = MethodCard(
    name="attention_transfer",
    title="Paying More Attention to Attention: Improving the Performance of Convolutional Neural Networks via "
    "Attention Transfer",
    authors="Zagoruyko and Komodakis",
    year=2016,
    arxiv="1612.03928",
    venue="ICLR 2017",
    claim="The student learns where the teacher's activations are large: a map over positions, at several layers.",
    when="For networks with maps or tokens, of any widths: nothing is learned beside the student. Layers with the same "
    "size of map are best, one for each stage of the network. It says where to look, not what is seen, so combine "
    "it with labels.",
    bibtex="""@inproceedings{zagoruyko2017paying,
  title = {Paying More Attention to Attention: Improving the Performance of Convolutional Neural Networks via
           Attention Transfer},
  author = {Zagoruyko, Sergey and Komodakis, Nikos},
  booktitle = {International Conference on Learning Representations},
  year = {2017},
  eprint = {1612.03928},
  archivePrefix = {arXiv}
}""",
    reads=("features",),
    labels="few",
    example={"at": ["layer1", "layer2"], "student_at": ["layer1", "layer2"]},
    ranges={"weight": SearchRange(10.0, 10000.0, log=True), "power": SearchRange(1.0, 4.0)},
    trials=("cnn", "resnet"),
    tasks=("classification", "multi_label", "regression", "segmentation", "language_modeling"),
    kernels=(
        KernelClaim(
            attention_distance,
            zero_at_equality=True,
            logits=False,
            shape=(3, 2, 4),
            channels=1,
            invariances=(
                "student_scale",
                "teacher_scale",
                "student_negation",
                "student_channel_permutation",
                "teacher_channel_permutation",
                "joint_flip",
            ),
        ),
        KernelClaim(
            attention_distance, hyper={"squared": True}, zero_at_equality=True, logits=False, shape=(6, 5), positions=1
        ),
    ),
    keywords=("at", "attention maps"),
)


@validates_arguments
def attention_transfer(
    teacher: Any,
    *,
    at: Layers,
    student_at: Layers,
    weight: float = 1000.0,
    power: float = 2.0,
    squared: bool = False,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn from labels and attention maps: :math:`L_{task} + \frac{\beta}{2} \sum_j d(Q_S^j, Q_T^j)`.

    d is `attention_distance`, the norm of the difference of two normalized maps, divided by the number of positions.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run. It needs the layers `at`.
        at: The teacher's layers, one name or a list.
        student_at: The student's layers, in the same order.
        weight: Beta, at least 0. The paper sets it to 1000 divided by batch size and number of positions; here
            both divisions are part of the mean.
        power: p, the power of the activations in a map, above 0.
        squared: Whether to square the norm. The authors' code does, the equation of the paper does not.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If the lists have different lengths, `weight` is negative, or `power` is not above 0.

    Example:
        >>> from torch import nn
        >>> recipe = attention_transfer(nn.Linear(4, 3), at="layer2", student_at="layer1", weight=10.0)
        >>> [sorted(stage.objective.named_leaves()) for stage in recipe.stages()]
        [['attention_distance@layer1', 'cross_entropy']]

    Source: Zagoruyko and Komodakis, 2016, arXiv:1612.03928, section 3.1.
    """
    check_weight(weight=weight)
    _check_power(power)
    maps = add_losses(
        Loss(attention_distance, student=ours, teacher=theirs, power=power, squared=squared)
        for ours, theirs in pair_layers(at, student_at)
    )
    objective = CARD.get_task(task).supervised_loss() + (weight / 2) * maps
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="attention_transfer"))
