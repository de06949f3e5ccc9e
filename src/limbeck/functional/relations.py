"""Examples as rows, rows of length 1, distances between rows: parts of losses that compare examples or channels."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.errors import LimbeckError


def flatten_examples(
    features: Float[Tensor, "batch ..."], mask: Bool[Tensor, "batch ..."] | None = None
) -> Float[Tensor, "batch features"]:
    """Make one row of each example, divided by the largest absolute value of the batch.

    The division keeps products of huge features finite. It is no part of the graph, so use the rows only in formulas
    that do not depend on the scale of the batch.

    Args:
        features: Features, maps or sequences.
        mask: True where a position counts; the others become 0. A mask of other positions than the features have, such
            as that of pixels beside a smaller map, is not used.

    Example:
        >>> mask = torch.tensor([[True, True], [True, False]])
        >>> flatten_examples(torch.tensor([[[1.0], [2.0]], [[4.0], [9.0]]]), mask)
        tensor([[0.2500, 0.5000],
                [1.0000, 0.0000]])
    """
    if mask is not None and mask.shape == features.shape[: mask.ndim]:
        counts = mask.bool().reshape(mask.shape + (1,) * (features.ndim - mask.ndim))
        features = features.masked_fill(~counts, 0.0)
    rows = features.flatten(1) if features.ndim > 1 else features.unsqueeze(1)
    if rows.numel() == 0:
        return rows
    largest = rows.detach().abs().amax()
    return rows / largest.where(largest > 0, 1.0)


def select_examples(
    mask: Bool[Tensor, "batch ..."] | None, student: Float[Tensor, "batch ..."], teacher: Float[Tensor, "batch ..."]
) -> tuple[Bool[Tensor, "counted ..."] | None, Float[Tensor, "counted ..."], Float[Tensor, "counted ..."]]:
    """Leave out examples of which no position counts: the mask, and the features of student and teacher.

    Example:
        >>> select_examples(torch.tensor([True, False]), torch.eye(2), torch.zeros(2, 1))
        (tensor([True]), tensor([[1., 0.]]), tensor([[0.]]))
    """
    if mask is None:
        return mask, student, teacher
    counts = mask.bool().flatten(1).any(1) if mask.ndim > 1 else mask.bool()
    return mask[counts], student[counts], teacher[counts]


def place_pairs(
    pairs: Float[Tensor, "counted counted"], mask: Bool[Tensor, "batch ..."] | None
) -> Float[Tensor, "batch batch"]:
    """Put the values of the pairs that `select_examples` left back into their places; those of other pairs are 0.

    Example:
        >>> place_pairs(torch.ones(1, 1), torch.tensor([False, True]))
        tensor([[0., 0.],
                [0., 1.]])
    """
    if mask is None or len(pairs) == len(mask):
        return pairs
    places = (mask.bool().flatten(1).any(1) if mask.ndim > 1 else mask.bool()).nonzero().squeeze(1)
    return pairs.new_zeros(len(mask), len(mask)).index_put((places.unsqueeze(1), places), pairs)


def normalize_rows(rows: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch features"]:
    """Divide rows by their Euclidean length. A row of zeros stays 0, and its gradient is 0.

    Unlike `torch.nn.functional.normalize`, it has no smallest length: that divides the gradient of a row of zeros by
    1e-12, which ends a training at the first example whose activations are all 0.

    Example:
        >>> normalize_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    if rows.shape[-1] == 0:
        return rows
    # The length does not change the direction, so the first division needs no gradient. It keeps squares finite.
    largest = rows.detach().abs().amax(-1, keepdim=True)
    exists = largest > 0
    rows = (rows / largest.where(exists, 1.0)).where(exists, 0.0)
    squared = rows.square().sum(-1, keepdim=True)
    return rows / squared.where(exists, 1.0).sqrt()


def flatten_channels(
    features: Float[Tensor, "batch ..."], mask: Bool[Tensor, "batch ..."] | None = None, *, scale: bool = True
) -> Float[Tensor, "batch channels positions"]:
    """Bring features to the layout ``[batch, channels, positions]``, divided by the largest value of each example.

    Maps are ``[batch, channels, height, width]``, tokens ``[batch, positions, channels]``; rows ``[batch, channels]``
    have one position. As in `flatten_examples`, the division is no part of the graph, and a mask of other positions is
    not used.

    Args:
        features: Features of 2 to 4 dimensions.
        mask: True where a token counts; the others become 0.
        scale: Whether to divide.

    Raises:
        LimbeckError: If the features have other dimensions.

    Example:
        >>> flatten_channels(torch.tensor([[[1.0, 2.0], [4.0, 8.0]]]))
        tensor([[[0.1250, 0.5000],
                 [0.2500, 1.0000]]])
    """
    if not 2 <= features.ndim <= 4:
        raise LimbeckError(
            "Relations between channels or positions need features [batch, channels, height, width], [batch, tokens, "
            f"channels] or [batch, channels]; got the shape {tuple(features.shape)}. Name another layer."
        )
    if mask is not None and mask.ndim == 2 and features.ndim == 3 and mask.shape == features.shape[:2]:
        features = features.masked_fill(~mask.bool().unsqueeze(2), 0.0)
    layouts = {2: lambda: features.unsqueeze(2), 3: lambda: features.transpose(1, 2), 4: lambda: features.flatten(2)}
    channels = layouts[features.ndim]()
    if not scale or channels.numel() == 0:
        return channels
    largest = channels.detach().abs().amax((1, 2), keepdim=True)
    return channels / largest.where(largest > 0, 1.0)


def compute_gram(rows: Float[Tensor, "batch features"]) -> Float[Tensor, "batch batch"]:
    """Compute the inner products of all rows minus their mean, in float64.

    Distances and angles follow from them with memory for pairs alone, and float64 keeps the digits that the
    subtraction of nearly equal products would lose.

    Example:
        >>> compute_gram(torch.tensor([[0.0, 0.0], [2.0, 0.0]]))
        tensor([[ 1., -1.],
                [-1.,  1.]], dtype=torch.float64)
    """
    wide = rows.double()
    if len(wide):
        wide = wide - wide.mean(0, keepdim=True)
    return wide @ wide.T


def distances_from_gram(gram: Float[Tensor, "batch batch"]) -> Float[Tensor, "batch batch"]:
    """Compute the Euclidean distances between rows from their inner products; equal rows have 0, with a gradient of 0.

    Example:
        >>> distances_from_gram(compute_gram(torch.tensor([[0.0, 0.0], [3.0, 4.0]])))
        tensor([[0., 5.],
                [5., 0.]], dtype=torch.float64)
    """
    squares = gram.diagonal()
    sums = squares.unsqueeze(0) + squares.unsqueeze(1)
    squared = sums - 2 * gram
    differs = (squared > _ROUNDING * sums) & off_diagonal(len(gram), gram.device)
    # The slope of a root is infinite at 0.
    return squared.where(differs, 1.0).sqrt().where(differs, 0.0)


_ROUNDING = 1e-14  # of sums of squares in float64; rows of float32 that differ are further apart


def off_diagonal(size: int, device: torch.device) -> Bool[Tensor, "size size"]:
    """True for pairs of two different examples.

    Example:
        >>> off_diagonal(2, torch.device("cpu"))
        tensor([[False,  True],
                [ True, False]])
    """
    return ~torch.eye(size, dtype=torch.bool, device=device)
