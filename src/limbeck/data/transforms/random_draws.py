"""Converts uniform random numbers to integers, ranges and symmetric Beta variates."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from limbeck.data.transforms.validation import Number

_STRATA = 1 << 16

_DIGITS = 1 << 16


def sample_beta(draw: Float[Tensor, " batch"], alpha: Number) -> Float[Tensor, " batch"]:
    r"""Convert uniform numbers of 24 bits to :math:`Beta(\alpha, \alpha)` variates.

    For :math:`\alpha = 1` the draws are returned unchanged. Otherwise the first 16 bits of a draw, a whole number i,
    select the quantile at :math:`(i + 1/2) / 2^{16}` from a table of 65,536 equally likely strata. The quantiles are
    rounded to 16 significant bits, so small differences between libraries and processors do not matter, and a draw is
    the same in every batch and on every device. The upper half of the table mirrors the lower half, so that the mean
    is exactly 1/2.
    """
    if alpha == 1:
        return draw
    return _quantiles(float(alpha)).to(draw.device)[(draw.double() * _STRATA).long()]


@lru_cache(maxsize=16)
def _quantiles(alpha: float) -> Float[Tensor, " strata"]:
    from scipy.special import betaincinv  # slow to import, and not needed for alpha = 1

    middles = (np.arange(_STRATA // 2) + 0.5) / _STRATA
    digits, exponent = np.frexp(betaincinv(alpha, alpha, middles))
    lower = np.ldexp(np.round(digits * _DIGITS) / _DIGITS, exponent)
    return torch.from_numpy(np.concatenate([lower, 1.0 - lower[::-1]])).float()


def randint(draw: Float[Tensor, "*shape"], count: Int[Tensor, "*shape"] | int) -> Int[Tensor, "*shape"]:
    """Convert uniform numbers in [0, 1) of 24 bits to integers in ``0..count-1``."""
    return (draw.double() * count).long()  # exact in float64, so the result is always below count


def uniform(draw: Float[Tensor, "*shape"], low: Number, high: Number) -> Float[Tensor, "*shape"]:
    """Convert uniform numbers in [0, 1) to [low, high), in float64; exactly `low` if both are equal."""
    return draw.double() * (high - low) + low


def broadcast_per_image(value: Shaped[Tensor, " batch"], images: Any) -> Shaped[Tensor, "*shape"]:
    """Move one value per image to the images' device and reshape it to broadcast over pixels."""
    return value.to(images.device).view(-1, *[1] * (images.ndim - 1))


def row_indices(images: Tensor) -> Int[Tensor, " batch"]:
    """The index of each row of the batch."""
    return torch.arange(len(images), device=images.device)
