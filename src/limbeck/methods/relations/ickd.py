"""Inter-channel correlation: the student's channels correlate with each other as those of the teacher do."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional import KernelClaim, kernel
from limbeck.functional.connectors import Connector
from limbeck.functional.directions import inner_products
from limbeck.functional.relations import flatten_channels, normalize_rows
from limbeck.losses import Loss
from limbeck.methods.arguments import validates_arguments
from limbeck.methods.card import MethodCard, SearchRange
from limbeck.methods.features.layers import Layers, pair_layers
from limbeck.methods.relations.objective import add_targets, sum_objectives
from limbeck.methods.support import check_count, check_weight
from limbeck.recipe import Recipe, Stage
from limbeck.tasks import Task


@kernel(per="example")
def channel_correlation_squared_error(
    student: Float[Tensor, "batch ..."],
    teacher: Float[Tensor, "batch ..."],
    mask: Bool[Tensor, "batch ..."] | None = None,
    *,
    normalize: bool = True,
    grid: int = 1,
) -> Float[Tensor, " batch"]:
    r"""Compute the mean squared difference of the correlations between channels, one value for each example.

    :math:`\frac{1}{c^2} \|G_S - G_T\|_F^2` with :math:`G = F F^\top`, where row m of F is channel m at all positions.
    With `normalize`, each row of G is divided by its Euclidean length, so that the scale of the activations and the
    number of positions do not matter. With a `grid` of g, a map is cut into g x g cells with correlations of their own,
    and the value is the mean over cells.

    The order of the positions does not matter, and the two maps may differ in size.

    Args:
        student: Features of the student, after its head: as many channels as the teacher's.
        teacher: Features of the teacher.
        mask: True where a token counts; the others are 0 in both.
        normalize: Whether the rows of G get the length 1.
        grid: The number of cells in each direction; 1 for the whole map.

    Raises:
        LimbeckError: If the numbers of channels differ, or a map cannot be cut into `grid` equal parts.

    Example:
        >>> import torch
        >>> maps = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])  # two channels that never meet
        >>> channel_correlation_squared_error(maps, torch.ones(1, 2, 1, 2), normalize=False)
        tensor([2.5000])

    Source: Liu et al., 2021, arXiv:2202.03680, section 3.
    """
    if student.shape[1 if student.ndim != 3 else 2] != teacher.shape[1 if teacher.ndim != 3 else 2]:
        raise LimbeckError(
            f"Channels are compared with channels, and the student's features {tuple(student.shape)} have other "
            f"numbers of them than the teacher's {tuple(teacher.shape)}. Use a head: Loss(..., head=Connector())."
        )
    ours, theirs = (_correlate(features, mask, normalize, grid) for features in (student, teacher))
    return (ours - theirs).square().flatten(1).mean(1)


def _correlate(
    features: Tensor, mask: Tensor | None, normalize: bool, grid: int
) -> Float[Tensor, "batch cells channels channels"]:
    cells = _cut(features, grid)
    channels = flatten_channels(cells, mask if grid == 1 else None, scale=normalize)
    products = inner_products(channels)
    products = products.unflatten(0, (-1, grid * grid)) if len(products) else products.unsqueeze(1)
    return normalize_rows(products) if normalize else products


def _cut(features: Tensor, grid: int) -> Tensor:
    """The cells of maps as examples of their own."""
    if grid == 1:
        return features
    if features.ndim != 4 or features.shape[2] % grid or features.shape[3] % grid:
        raise LimbeckError(
            f"grid={grid} cuts maps [batch, channels, height, width] whose height and width are multiples of {grid}; "
            f"got {tuple(features.shape)}. Use grid=1, or another layer."
        )
    batch, channels, height, width = features.shape
    parts = features.reshape(batch, channels, grid, height // grid, grid, width // grid)
    return parts.permute(0, 2, 4, 1, 3, 5).reshape(batch * grid * grid, channels, height // grid, width // grid)


_MAPS: dict[str, Any] = {"logits": False, "zero_at_equality": True, "channels": 1}

CARD = MethodCard(
    name="ickd",
    title="Exploring Inter-Channel Correlation for Diversity-preserved Knowledge Distillation",
    authors="Liu, Huang, Lin, Xie, Wang, Chang and Liang",
    year=2021,
    arxiv="2202.03680",
    venue="ICCV 2021",
    claim="Two channels of the student are alike or different as those of the teacher are, so that its features are as "
    "diverse.",
    when="For convolutional networks, and for segmentation with a grid of cells. A learned 1x1 convolution brings the "
    "student to the teacher's number of channels; memory grows with its square. Compare with hinton: torchdistill's "
    "run on ImageNet did not reach the numbers of the paper (68.34 where the paper has 72.19).",
    bibtex="""@inproceedings{liu2021exploring,
  title = {Exploring Inter-Channel Correlation for Diversity-preserved Knowledge Distillation},
  author = {Liu, Li and Huang, Qingle and Lin, Sihao and Xie, Hongwei and Wang, Bing and Chang, Xiaojun and
            Liang, Xiaodan},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year = {2021},
  eprint = {2202.03680},
  archivePrefix = {arXiv}
}""",
    reads=("features",),
    example={"at": "layer2", "student_at": "layer2"},
    ranges={"weight": SearchRange(1.0, 1000.0, log=True)},
    tasks=("classification", "multi_label", "regression", "segmentation", "language_modeling"),
    kernels=(
        KernelClaim(
            channel_correlation_squared_error,
            **_MAPS,
            shape=(4, 3, 3),
            teacher_shape=(4, 2, 2),
            invariances=(
                "student_scale", "teacher_scale", "student_position_permutation", "teacher_position_permutation",
                "joint_channel_permutation", "student_negation",
            ),
        ),
        KernelClaim(channel_correlation_squared_error, **_MAPS, shape=(4, 4, 2), hyper={"grid": 2}),
        KernelClaim(
            channel_correlation_squared_error, **_MAPS, shape=(4, 3, 3), hyper={"normalize": False}, largest=1e6
        ),
        KernelClaim(
            channel_correlation_squared_error, logits=False, zero_at_equality=True, shape=(6, 5), positions=1
        ),
    ),
)  # fmt: skip


@validates_arguments
def ickd(
    teacher: Any,
    *,
    at: Layers,
    student_at: Layers,
    weight: float = 100.0,
    normalize: bool = True,
    grid: int = 1,
    labels: bool = True,
    soft_weight: float = 0.0,
    temperature: float | None = None,
    task: str | Task = "classification",
    epochs: int | None = None,
) -> Recipe:
    r"""Learn labels, and the teacher's correlations between channels: :math:`-\log q_y + \beta \sum_l L_{CC}`.

    :math:`L_{CC}` is the mean of `channel_correlation_squared_error` over examples, after a learned linear map of the
    student's channels (a 1x1 convolution), which is dropped afterwards.

    Args:
        teacher: The teacher: a module, a `Teacher`, or the name of a model in the run.
        at: Name of the teacher's layer, or of several.
        student_at: Name of the student's layer, or of as many.
        weight: Beta, the weight of the correlations of each layer, at least 0. 100 is a choice for normalized
            correlations and some 100 channels; the authors' code divides by the number of channels, not its square.
        normalize: Whether rows of correlations get the length 1, as in the authors' code. False is the plain inner
            product.
        grid: The number of cells in each direction with correlations of their own, for segmentation; 1 for the whole.
        labels: Whether to use labels. False drops the label term.
        soft_weight: Weight of the soft targets of `hinton`, at least 0.
        temperature: T of the soft targets, above 0; 4 by default.
        task: What the targets are; the losses of labels and soft targets are its own.
        epochs: Passes over the data; by default the budget of the run.

    Raises:
        LimbeckError: If a weight is negative, `grid` is no whole number from 1, `temperature` is not above 0 or has no
            soft targets, or there are more layers of one model.

    Example:
        >>> from torch import nn
        >>> recipe = ickd(nn.Linear(4, 3), at="layer2", student_at="layer1")
        >>> [stage.name for stage in recipe.stages()]
        ['ickd']

    Source: Liu et al., 2021, arXiv:2202.03680.
    """
    check_weight(weight=weight)
    check_count(grid=grid)
    if not isinstance(normalize, bool):
        raise ArgumentError(f"normalize is true or false; got {normalize!r}.", argument="normalize")
    correlations = [
        weight
        * Loss(
            channel_correlation_squared_error,
            student=mine, teacher=its, head=Connector(), normalize=normalize, grid=grid,
        )
        for mine, its in pair_layers(at, student_at)
    ]  # fmt: skip
    objective = add_targets(
        sum_objectives(correlations), CARD.get_task(task),
        labels=labels, soft_weight=soft_weight, temperature=temperature,
    )  # fmt: skip
    return Recipe(Stage(objective, teacher=teacher, epochs=epochs, name="ickd"))
