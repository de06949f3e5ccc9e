"""Examples as rows, rows of length 1, distances between rows: parts of losses that compare examples or channels."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.functional.blockwise import inside_transform
from limbeck.functional.directions import find_directions, inner_products


def flatten_examples(
    features: Float[Tensor, "batch ..."], mask: Bool[Tensor, "batch ..."] | None = None, *, scale: bool = True
) -> Float[Tensor, "batch features"]:
    """Make one row of each example, divided by the largest absolute value of the batch.

    The division keeps products of huge features finite. It is no part of the graph, so use the rows only in formulas
    that do not depend on the scale of the batch.

    Args:
        features: Features, maps or sequences.
        mask: True where a position counts; the others become 0. A mask of other positions than the features have, such
            as that of pixels beside a smaller map, is not used.
        scale: Whether to divide.

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
    if not scale or rows.numel() == 0:
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
    directions = find_directions(rows)
    if directions is not None:
        return directions
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
    return inner_products(_center(rows))


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


def compute_distances(rows: Float[Tensor, "batch features"]) -> Float[Tensor, "batch batch"]:
    """Compute the Euclidean distances between rows: `distances_from_gram` in the type of the rows, in less time.

    Their squares must be in the range of that type.

    Example:
        >>> compute_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        tensor([[0., 5.],
                [5., 0.]])
    """
    if rows.device.type == "cpu" and not torch.compiler.is_compiling():
        try:
            distances: Tensor = _Distances.apply(rows)
            return distances
        except RuntimeError:  # inside vmap, grad, jacrev, ... of torch.func
            if not inside_transform(rows):
                raise
    return distances_from_gram(compute_gram(rows)).to(rows.dtype)


class _Distances(torch.autograd.Function):
    """In float64 up to the square, where nearly equal numbers are subtracted, and in the type of the rows after it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        wide = _center(rows)
        squared = inner_products(wide)
        squares = squared.diagonal().clone()
        squared.mul_(-2).add_(squares).add_(squares.unsqueeze(1))
        least = (squares + squares.unsqueeze(1)).mul_(_ROUNDING)
        distances = squared.masked_fill_(squared <= least, 0.0).to(rows.dtype).sqrt_().fill_diagonal_(0.0)
        ctx.save_for_backward(rows, wide, distances)
        return distances

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        rows, wide, distances = ctx.saved_tensors
        if torch.is_grad_enabled():
            with torch.enable_grad():
                again = distances_from_gram(compute_gram(rows)).to(rows.dtype)
            return torch.autograd.grad(again, rows, grad, create_graph=True)[0]
        # The slope in row i is the sum over j of g_ij (x_i - x_j) / d_ij, and pairs count in both orders.
        weights = (grad / distances).masked_fill_(distances == 0, 0.0)
        weights = (weights + weights.T).to(wide.dtype)
        return (weights.sum(1, keepdim=True) * wide).sub_(weights @ wide).to(rows.dtype)


def _center(rows: Tensor) -> Float[Tensor, "batch features"]:
    """The rows minus their mean, in float64."""
    wide = rows.double()
    return wide - wide.mean(0, keepdim=True) if len(wide) else wide


_ROUNDING = 1e-14  # of sums of squares in float64; rows of float32 that differ are further apart


def off_diagonal(size: int, device: torch.device) -> Bool[Tensor, "size size"]:
    """True for pairs of two different examples.

    Example:
        >>> off_diagonal(2, torch.device("cpu"))
        tensor([[False,  True],
                [ True, False]])
    """
    return ~torch.eye(size, dtype=torch.bool, device=device)
