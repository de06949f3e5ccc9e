"""Layouts and sizes of feature maps: positions by channels, pooling to a common size, scales that do not overflow."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.functional.directions import find_directions
from limbeck.functional.kernel import kernel


def to_positions(features: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch positions channels"]:
    """Bring features to the layout ``[batch, positions, channels]``.

    * ``[batch, channels, height, width]``: the pixels are the positions.
    * ``[batch, positions, channels]``: tokens or patches; returned as they are.
    * ``[batch, channels]``: one position.

    Raises:
        LimbeckError: If there are fewer than 2 or more than 4 dimensions.

    Example:
        >>> to_positions(torch.zeros(2, 16, 8, 8)).shape
        torch.Size([2, 64, 16])
    """
    if features.ndim == 4:
        return features.flatten(2).transpose(1, 2)
    if features.ndim == 3:
        return features
    if features.ndim == 2:
        return features.unsqueeze(1)
    raise LimbeckError(
        f"Features are [batch, channels, height, width], [batch, positions, channels] or [batch, channels]; got the "
        f"shape {tuple(features.shape)}. Name another layer."
    )


def match_positions(
    student: Float[Tensor, "batch ..."], teacher: Float[Tensor, "batch ..."]
) -> tuple[Float[Tensor, "batch positions ds"], Float[Tensor, "batch positions dt"]]:
    """Bring two features to the same positions, in the layout of `to_positions`.

    Maps of different sizes are averaged (adaptive average pooling) to the smaller height and width. Rows of features
    without positions count as maps of one pixel. The numbers of channels may differ.

    Args:
        student: Features of the student.
        teacher: Features of the teacher.

    Raises:
        LimbeckError: If tokens do not have as many positions on both sides.

    Example:
        >>> [tuple(x.shape) for x in match_positions(torch.zeros(2, 16, 8, 8), torch.zeros(2, 64, 4, 4))]
        [(2, 16, 16), (2, 16, 64)]

    Source: the rule of Chen et al., 2022, arXiv:2203.14001, section 3; Zagoruyko and Komodakis, 2016, arXiv:1612.03928,
        interpolate maps of different sizes.
    """
    ours, theirs = _map_size(student), _map_size(teacher)
    if ours is not None and theirs is not None and ours != theirs:
        size = (min(ours[0], theirs[0]), min(ours[1], theirs[1]))
        student, teacher = pool_to(student, size), pool_to(teacher, size)
    student, teacher = to_positions(student), to_positions(teacher)
    if student.shape[1] != teacher.shape[1]:
        raise LimbeckError(
            f"The student has {student.shape[1]} positions and the teacher {teacher.shape[1]}, and tokens cannot be "
            "pooled. Feed both the same tokens, or name layers with as many positions (a class token counts as one)."
        )
    return student, teacher


def pool_to(
    features: Float[Tensor, "batch channels ..."], size: tuple[int, int], *, largest: bool = False
) -> Float[Tensor, "batch channels ..."]:
    """Pool maps to a height and width; maps of this size and features that are no maps are returned as they are.

    Args:
        features: Maps ``[batch, channels, height, width]``.
        size: Height and width of the result.
        largest: Whether to take the largest value of each part, and not the mean.

    Example:
        >>> pool_to(torch.arange(4.0).reshape(1, 1, 2, 2), (1, 1)).item()
        1.5
    """
    if features.ndim != 4 or tuple(features.shape[2:]) == size:
        return features
    if not features.shape[0]:  # PyTorch refuses to pool an empty batch
        return features.new_zeros(0, features.shape[1], *size) + features.sum()
    return F.adaptive_max_pool2d(features, size) if largest else F.adaptive_avg_pool2d(features, size)


def _map_size(features: Tensor) -> tuple[int, int] | None:
    """Height and width; one pixel for rows of features, and None for tokens."""
    if features.ndim == 4:
        return int(features.shape[2]), int(features.shape[3])
    return (1, 1) if features.ndim == 2 else None


def position_mask(mask: Bool[Tensor, "batch ..."] | None, features: Tensor) -> Bool[Tensor, "batch positions 1"] | None:
    """The mask of the tokens of ``[batch, positions, channels]``; None if it has no entry for each of them.

    Example:
        >>> position_mask(torch.tensor([[True, False]]), torch.zeros(1, 2, 3)).flatten().tolist()
        [True, False]
    """
    if mask is None or features.ndim != 3 or mask.shape != features.shape[:2]:
        return None
    return mask.bool().unsqueeze(-1)


def mean_over_positions(
    values: Float[Tensor, "batch positions channels"], where: Bool[Tensor, "batch positions 1"] | None
) -> Float[Tensor, " batch"]:
    """The mean over channels and the positions that count; 0 for an example without any.

    Example:
        >>> mean_over_positions(torch.tensor([[[1.0], [5.0]]]), torch.tensor([[[True], [False]]])).item()
        1.0
    """
    if where is None:
        return values.flatten(1).mean(1)
    return values.masked_fill(~where, 0.0).sum((1, 2)) / (where.sum((1, 2)) * values.shape[2]).clamp_min(1)


def unit_scale(features: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
    """Divide each example by its largest absolute value, so that squares neither overflow nor vanish.

    For functions that do not depend on the scale of an example. The divisor is a constant of the graph, which leaves
    their derivatives exact. An example of zeros stays zero.

    Example:
        >>> unit_scale(torch.tensor([[1e30, -2e30], [0.0, 0.0]])).tolist()
        [[0.5, -1.0], [0.0, 0.0]]
    """
    largest = features.detach().abs().flatten(1).amax(1) if features.numel() else features.new_ones(len(features))
    largest = torch.where((largest > 0) & largest.isfinite(), largest, torch.ones_like(largest))
    return features / largest.reshape(-1, *[1] * (features.ndim - 1))


def safe_normalize(rows: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """Divide rows by their Euclidean norm; a row of zeros stays zero, with a gradient of 0.

    Example:
        >>> safe_normalize(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    directions = find_directions(rows)
    if directions is not None:
        return directions
    squared = rows.square().sum(-1, keepdim=True)
    # The slope of a root is infinite at 0.
    norm = squared.where(squared > 0, 1.0).sqrt()
    return rows / norm


def safe_root(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The square root of values of at least 0, with a gradient of 0 at 0 (where the slope is infinite).

    Example:
        >>> safe_root(torch.tensor([0.0, 4.0])).tolist()
        [0.0, 2.0]
    """
    positive = values > 0
    return values.where(positive, 1.0).sqrt().where(positive, 0.0)


@kernel(per="example")
def mean_squared_distance(
    student: Float[Tensor, "batch ..."],
    teacher: Float[Tensor, "batch ..."],
    mask: Bool[Tensor, "batch ..."] | None = None,
) -> Float[Tensor, " batch"]:
    """Compute the mean squared difference of features over channels and the positions that count.

    Args:
        student: Features of the student, with the channels of the teacher.
        teacher: Features of the teacher.
        mask: Which positions of tokens count.

    Raises:
        LimbeckError: If the numbers of channels or tokens differ. In float32 it overflows for differences above 1e19.

    Example:
        >>> import torch
        >>> mean_squared_distance(torch.zeros(1, 2), torch.tensor([[1.0, 3.0]])).item()
        5.0

    Source: Yang, Martinez, Bulat and Tzimiropoulos, ICLR 2021 (SRRL); Chen et al., 2022, arXiv:2203.14001 (SimKD).
    """
    where = position_mask(mask, student)
    student, teacher = match_positions(student, teacher)
    if student.shape != teacher.shape:
        raise LimbeckError(f"The student has {student.shape[2]} channels and the teacher {teacher.shape[2]}.")
    return mean_over_positions((student - teacher).square(), where)
