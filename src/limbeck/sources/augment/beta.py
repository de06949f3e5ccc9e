"""How is a number drawn from a symmetric Beta distribution, to the bit and without luck?"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.sources.augment.check import Number

_STRATA = 1 << 16
_DIGITS = 1 << 16


def beta_of(draw: Float[Tensor, " batch"], alpha: Number) -> Float[Tensor, " batch"]:
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
