"""Divergences as sums of terms that are never negative, for rows near equality, where other formulas cancel."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_SHIFT = 1e4  # a mean log-ratio above it is known to no better than 1e-3 in float32
HIGHEST = 60.0  # nats; larger log-ratios of a class times its probability are imprecise in float32


class SeriesTerms(ABC):
    """A divergence ``sum_c p_c^power f(d_c)`` with ``d = log(q / p)``, ``f >= 0``, ``f(0) = f'(0) = 0``.

    Every term is 0 or more, so the rounded sum is too. A formula with logarithms has terms of both signs that cancel.
    """

    series: tuple[float, ...]
    """The factors of ``d^2, d^3, ..., d^7`` in f."""
    power: float = 1.0
    small: float = 0.1  # the value below which terms of both signs cancel too much
    highest: float = HIGHEST  # the largest d for which f is precise

    @abstractmethod
    def term(self, d: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch classes"]:
        """``f(d)`` where d is not small."""


def near(dtype: torch.dtype) -> float:
    """Return the log-ratio up to which a series of six terms is more precise than the formula."""
    return 0.25 if dtype == torch.float32 else 0.004


def sum_of_terms(
    student: Tensor, teacher: Tensor, temperature: float, of: SeriesTerms
) -> tuple[Float[Tensor, "*batch"], Bool[Tensor, "*batch"]]:
    """Compute the divergence of each row (without T^2), and the mask of rows where this is valid.

    It is not valid if only one side is -inf in a column, for NaN, and for logits whose ratio overflows.
    """
    masked = (student == -torch.inf) & (teacher == -torch.inf)
    ratio = ((student - teacher) / temperature).masked_fill(masked, 0.0)
    live = (teacher / temperature).masked_fill(masked, torch.finfo(teacher.dtype).min / 4)
    p = torch.softmax(live, -1).masked_fill(masked, 0.0)
    mean = (p * ratio).sum(-1, keepdim=True) / p.sum(-1, keepdim=True)
    ratio = (ratio - mean).masked_fill(masked, 0.0)
    valid = (ratio.isfinite().all(-1)) & (ratio.amax(-1) < of.highest) & (mean.squeeze(-1).abs() < _SHIFT)
    ratio = torch.where(valid.unsqueeze(-1), ratio, torch.zeros_like(ratio))
    p = torch.where(valid.unsqueeze(-1), p, torch.zeros_like(p))
    rise = torch.where(ratio.abs() < near(ratio.dtype), powers(ratio, EXPONENTIAL), torch.expm1(ratio) - ratio)
    # The mean of the ratio is 0 now, so the normalizer is 1 + rise; the rounding error is of second order.
    d = ratio - torch.log1p((p * rise).sum(-1, keepdim=True))
    term = torch.where(d.abs() < near(d.dtype), powers(d, of.series), of.term(d))
    weight = p if of.power == 1 else torch.where(masked, 0.0, (of.power * torch.log_softmax(live, -1)).exp())
    return (weight * term.clamp_min(0.0)).sum(-1), valid


def powers(d: Float[Tensor, "*shape"], series: Sequence[float]) -> Float[Tensor, "*shape"]:
    """Compute ``series[0] d^2 + series[1] d^3 + ...``."""
    total = torch.full_like(d, series[-1])
    for factor in series[-2::-1]:
        total = total * d + factor
    return total * d * d


def powers_into(d: Tensor, series: Sequence[float], out: Tensor) -> Tensor:
    """Compute `powers` in place."""
    torch.mul(d, series[-1], out=out)
    for factor in series[-2:0:-1]:
        out.add_(factor).mul_(d)
    return out.add_(series[0]).mul_(d).mul_(d)


def cumulants(share: float) -> tuple[float, ...]:
    """Return derivatives 2 to 7 of ``log(1 - share + share exp(d))`` at 0, divided by ``share (1 - share)``."""
    s, c = share * (1 - share), 1 - 2 * share
    return 1.0, c, 1 - 6 * s, c * (1 - 12 * s), 1 - 30 * s + 120 * s * s, c * (1 - 60 * s + 360 * s * s)


EXPONENTIAL = tuple(1 / math.factorial(k) for k in range(2, 8))
"""The series of ``exp(d) - 1 - d``."""
