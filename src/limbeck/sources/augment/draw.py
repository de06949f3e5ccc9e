"""How do an example's uniform numbers become choices, and reach the rows of its image?"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from limbeck.sources.augment.check import Number


def below(draw: Float[Tensor, "*shape"], count: Int[Tensor, "*shape"] | int) -> Int[Tensor, "*shape"]:
    """A whole number in ``0..count-1``, from a uniform number in [0, 1) of 24 bits."""
    return (draw.double() * count).long()  # exact in float64, so that it never reaches count


def between(draw: Float[Tensor, "*shape"], low: Number, high: Number) -> Float[Tensor, "*shape"]:
    """A number in [low, high), in float64; exactly `low` where both are equal."""
    return draw.double() * (high - low) + low


def spread(value: Shaped[Tensor, " batch"], images: Any) -> Shaped[Tensor, "*shape"]:
    """One value for each image, on its device and shaped so that it meets all of its pixels."""
    return value.to(images.device).view(-1, *[1] * (images.ndim - 1))


def rows_of(images: Tensor) -> Int[Tensor, " batch"]:
    """The number of each row of the batch."""
    return torch.arange(len(images), device=images.device)
