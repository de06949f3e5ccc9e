"""Random draws for transforms: uniform numbers to choices, and symmetric Beta variates."""

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
    r"""Numbers from :math:`Beta(\alpha, \alpha)`, from uniform ones of 24 bits.

    At :math:`\alpha = 1` the draws themselves. Otherwise by inverse transform with the first 16 bits of the draw, a
    whole number i: the quantile at :math:`(i + 1/2) / 2^{16}`, the middle of one of 65,536 equally likely strata. These
    quantiles are a table, made once, of numbers of 16 significant bits: what libraries and processors differ by, far
    beyond these bits, does not show, and a draw is a look-up, the same in every batch and on every device. The lower
    half of the table is computed and the upper half is its mirror image, so that the mean is 1/2.
    """
    if alpha == 1:
        return draw
    return _quantiles(float(alpha)).to(draw.device)[(draw.double() * _STRATA).long()]


@lru_cache(maxsize=16)
def _quantiles(alpha: float) -> Float[Tensor, " strata"]:
    from scipy.special import betaincinv  # slow to import, and at alpha = 1 nobody needs it

    middles = (np.arange(_STRATA // 2) + 0.5) / _STRATA
    digits, exponent = np.frexp(betaincinv(alpha, alpha, middles))
    lower = np.ldexp(np.round(digits * _DIGITS) / _DIGITS, exponent)
    return torch.from_numpy(np.concatenate([lower, 1.0 - lower[::-1]])).float()


def randint(draw: Float[Tensor, "*shape"], count: Int[Tensor, "*shape"] | int) -> Int[Tensor, "*shape"]:
    """A whole number in ``0..count-1``, from a uniform number in [0, 1) of 24 bits."""
    return (draw.double() * count).long()  # exact in float64, so that it never reaches count


def uniform(draw: Float[Tensor, "*shape"], low: Number, high: Number) -> Float[Tensor, "*shape"]:
    """A number in [low, high), in float64; exactly `low` where both are equal."""
    return draw.double() * (high - low) + low


def broadcast_per_image(value: Shaped[Tensor, " batch"], images: Any) -> Shaped[Tensor, "*shape"]:
    """One value for each image, on its device and shaped so that it meets all of its pixels."""
    return value.to(images.device).view(-1, *[1] * (images.ndim - 1))


def row_indices(images: Tensor) -> Int[Tensor, " batch"]:
    """The number of each row of the batch."""
    return torch.arange(len(images), device=images.device)
