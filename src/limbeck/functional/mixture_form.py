"""What does a divergence from a mixture of student and teacher contribute in each class, and how does it slope?"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from limbeck.functional.closed_form import Form, Found, Pair, through_softmax


@final
class JensenShannon(Form):
    """``weight_p KL(p || m) + weight_q KL(q || m)`` with ``m = b p + (1 - b) q``.

    The weights stand as b to 1 - b: the terms in dm then cancel, and the slopes are this short. A weight is applied
    last, as it may be huge and what it scales is small.
    """

    def __init__(self, mixture: float, weight_p: float, weight_q: float) -> None:
        self.mixture, self.weight_p, self.weight_q = mixture, weight_p, weight_q

    def __call__(self, pair: Pair, student: bool, teacher: bool) -> Found:
        """The divergence, and the slopes that are wanted."""
        log_q, log_p, q, p, _ = pair
        over_p = -_log_mix(self.mixture, 1 - self.mixture, log_q - log_p)  # log(p / m)
        over_q = -_log_mix(1 - self.mixture, self.mixture, log_p - log_q)  # log(q / m)
        return Found(
            self.weight_p * (p * over_p).sum(-1) + self.weight_q * (q * over_q).sum(-1),
            self.weight_q * through_softmax(q, over_q) if student else None,
            self.weight_p * through_softmax(p, over_p) if teacher else None,
        )


@final
class Skew(Form):
    """``KL(p || a p + (1 - a) q)``."""

    def __init__(self, skew: float) -> None:
        self.skew = skew

    def __call__(self, pair: Pair, student: bool, teacher: bool) -> Found:
        """The divergence, and the slopes that are wanted."""
        log_q, log_p, q, p, _ = pair
        over = -_log_mix(self.skew, 1 - self.skew, log_q - log_p)  # log(p / m)
        # By q the slope is -(1 - a) p / m; less the same constant in each class, it is exactly 0 where p = q.
        return Found(
            (p * over).sum(-1),
            through_softmax(q, (self.skew - 1) * over.expm1()) if student else None,
            through_softmax(p, over - self.skew * over.expm1()) if teacher else None,
        )


def _log_mix(keep: float, take: float, d: Tensor) -> Tensor:
    """``log(keep + take * exp(d))`` for keep + take = 1: exactly 0 at d = 0, and accurate relative to itself.

    The first form loses nothing for a small `take` but fails where exp(d) overflows or the sum comes near to 0.
    """
    if take == 0:
        return torch.zeros_like(d)
    if keep == 0:
        return d
    near = torch.log1p(take * torch.expm1(d.clamp(-1.0, 80.0)))
    # Each share's logarithm comes from the smaller of the two, which rounding has not touched.
    log_keep = math.log(keep) if keep < take else math.log1p(-take)
    log_take = math.log(take) if take < keep else math.log1p(-keep)
    far = torch.logaddexp(torch.full_like(d, log_keep), log_take + d)
    return torch.where((d > -1) & (d < 80), near, far)
