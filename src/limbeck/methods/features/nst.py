"""NST: the channels of the student are selective to the same positions as the channels of the teacher."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.errors import LimbeckError, unknown_name_error
from limbeck.functional import KernelClaim, kernel
from limbeck.functional.feature_maps import match_positions, position_mask, safe_normalize, unit_scale
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.features.layers import Layers, add_losses, pair_layers
from limbeck.methods.support import check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task

SIMILARITIES = ("linear", "polynomial", "gaussian")
"""The similarities of two channels."""


@kernel(per="example")
def selectivity_mmd(
    student: Float[Tensor, "batch ..."],
    teacher: Float[Tensor, "batch ..."],
    mask: Bool[Tensor, "batch ..."] | None = None,
    *,
    similarity: str = "polynomial",
) -> Float[Tensor, " batch"]:
    r"""Compute the squared maximum mean discrepancy (MMD) of the channels of two feature maps.

    A channel is one sample: its activations at all positions, divided by their Euclidean norm. The value is

    .. math:: \frac{1}{C_T^2} \sum_{ii'} k(t_i, t_{i'}) + \frac{1}{C_S^2} \sum_{jj'} k(s_j, s_{j'})
              - \frac{2}{C_T C_S} \sum_{ij} k(t_i, s_j)

    with k(x, y) one of ``linear`` :math:`x^\top y`, ``polynomial`` :math:`(x^\top y)^2`, and ``gaussian``
    :math:`\exp(-\|x - y\|^2 / 2 \sigma^2)`, where :math:`\sigma^2` is the mean squared distance of a channel of the
    teacher and one of the student. The value is at least 0, and 0 if both have the same channels in any order. The
    numbers of channels may differ. Of maps of different sizes, the larger one is averaged to the smaller.

    Args:
        student: Features of the student, ``[batch, channels, height, width]`` or ``[batch, positions, channels]``.
        teacher: Features of the teacher.
        mask: Which positions of tokens count.
        similarity: k, one of `SIMILARITIES`.

    Raises:
        LimbeckError: If there is only one position, where all channels are alike.
        UnknownNameError: If there is no such similarity.

    Example:
        >>> import torch
        >>> one = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
        >>> selectivity_mmd(one, one.flip(2)).item(), selectivity_mmd(one, one[..., :1]).item()
        (0.0, 0.5)

    Source: Huang and Wang, Like What You Like, 2017, arXiv:1707.01219, equations 6 to 9.
    """
    _check_similarity(similarity)
    where = position_mask(mask, student)
    pair = match_positions(student, teacher)
    if pair[0].shape[1] < 2:
        raise LimbeckError(
            "Channels are compared by the positions that they are active at, and these features have only one. Name "
            "a layer with maps [batch, channels, height, width] or tokens."
        )
    s, t = (_channel_samples(features, where) for features in pair)
    if similarity == "linear":  # the mean of all pairs is the product of the means
        return (s.mean(1) - t.mean(1)).square().sum(-1)
    scale = None if similarity == "polynomial" else _squared_distances(t, s).mean((1, 2), keepdim=True)
    each = [_similarities(x, y, scale).mean((1, 2)) for x, y in ((t, t), (s, s), (t, s))]
    # Rounding may bring a difference of nearly equal means below 0.
    return (each[0] + each[1] - 2 * each[2]).clamp_min(0.0)


def _channel_samples(features: Tensor, where: Tensor | None) -> Tensor:
    scaled = unit_scale(features if where is None else features.masked_fill(~where, 0.0)).transpose(1, 2)
    # Each channel has its own scale: the square of a weak one beside a strong one would vanish.
    return safe_normalize(unit_scale(scaled.flatten(0, 1)).unflatten(0, scaled.shape[:2]))


def _similarities(x: Tensor, y: Tensor, scale: Tensor | None) -> Tensor:
    if scale is None:
        return (x @ y.transpose(1, 2)).square()
    return (-_squared_distances(x, y) / (2 * scale.where(scale > 0, 1.0))).exp()


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    squares = x.square().sum(-1).unsqueeze(2) + y.square().sum(-1).unsqueeze(1)
    return squares - 2 * x @ y.transpose(1, 2)


def _check_similarity(similarity: str) -> None:
    if similarity not in SIMILARITIES:
        raise unknown_name_error("similarity of channels", similarity, SIMILARITIES, argument="similarity")


_SAMPLE: dict[str, Any] = {
    "zero_at_equality": True,
    "logits": False,
    "shape": (3, 2, 4),
    "channels": 1,
    "invariances": (
        "student_scale",
        "teacher_scale",
        "student_channel_permutation",
        "teacher_channel_permutation",
        "joint_flip",
    ),
}

CARD = MethodCard(
    name="nst",
    title="Like What You Like: Knowledge Distill via Neuron Selectivity Transfer",
    authors="Huang and Wang",
    year=2017,
    arxiv="1707.01219",
    venue="arXiv preprint",
    claim="The channels of the student, as a distribution over patterns of positions, match those of the teacher.",
    when="For networks with maps or tokens of any widths: nothing is learned beside the student. It compares all pairs "
    "of channels. One late layer is enough in the paper, which combines it with other losses.",
    bibtex="""@article{huang2017like,
  title = {Like What You Like: Knowledge Distill via Neuron Selectivity Transfer},
  author = {Huang, Zehao and Wang, Naiyan},
  journal = {arXiv preprint arXiv:1707.01219},
  year = {2017}
}""",
    reads=("features",),
    labels="few",
    example={"at": "layer2", "student_at": "layer2"},
    ranges={"weight": SearchRange(5.0, 500.0, log=True)},
    trials=("cnn", "resnet"),
    tasks=("classification", "multi_label", "regression", "segmentation", "language_modeling"),
    kernels=(
        KernelClaim(selectivity_mmd, **_SAMPLE),
        KernelClaim(selectivity_mmd, hyper={"similarity": "linear"}, **_SAMPLE),
        KernelClaim(selectivity_mmd, hyper={"similarity": "gaussian"}, **_SAMPLE),
    ),
)


@validates_arguments
def nst(
    teacher: Any,
    *,
    at: Layers,
    student_at: Layers,
    weight: float = 50.0,
    similarity: str = "polynomial",
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn from labels and from the selectivity of channels: :math:`L_{task} + \frac{\lambda}{2} \sum_j MMD^2_j`.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run. It needs the layers `at`.
        at: The teacher's layers, one name or a list.
        student_at: The student's layers, in the same order.
        weight: Lambda, at least 0.
        similarity: The similarity k of two channels: ``linear``, ``polynomial`` (of degree 2) or ``gaussian``.
        task: What the targets are.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If the lists have different lengths, `weight` is negative, or the similarity is unknown.

    Example:
        >>> from torch import nn
        >>> recipe = nst(nn.Linear(4, 3), at="layer2", student_at="layer2", weight=2.0, similarity="linear")
        >>> [sorted(stage.objective.named_leaves()) for stage in recipe.stages()]
        [['cross_entropy', 'selectivity_mmd@layer2']]

    Source: Huang and Wang, 2017, arXiv:1707.01219, section 4.
    """
    check_weight(weight=weight)
    _check_similarity(similarity)
    distances = add_losses(
        Loss(selectivity_mmd, student=ours, teacher=theirs, similarity=similarity)
        for ours, theirs in pair_layers(at, student_at)
    )
    objective = CARD.get_task(task).supervised_loss() + (weight / 2) * distances
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="nst"))
