"""How an arm's losses moved at the end of its training."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from limbeck.report.curves import read_curves, read_losses

_FEWEST = 10
"""Reports of a seed, below which a tenth of its training is less than one report."""
_SHARE = 0.01
"""A fall by less than this share of the loss is not worth more epochs."""


class Fall(NamedTuple):
    """A loss that still fell: its mean over the last tenth of training, and over the tenth before."""

    before: float
    last: float


def find_fall(arm: Path) -> Fall | None:
    r"""Whether an arm's loss fell over the last tenth of its last stage, beyond noise.

    The noise of one report is estimated from second differences of the second half of the curve, which a straight
    trend leaves at zero: :math:`\sigma^2 = \overline{(l_{i+1} - 2 l_i + l_{i-1})^2} / 6`. A fall counts from two
    standard errors and 1 % of the loss on.

    Args:
        arm: The arm's folder, with one folder for each seed.
    """
    curves = [[value for _, value in curve] for curve in read_losses(arm)]
    curves = [curve for curve in curves if len(curve) >= _FEWEST]
    if not curves:
        return None
    parts = [(curve, max(len(curve) // 10, 1)) for curve in curves]
    before = fmean(fmean(curve[-2 * k : -k]) for curve, k in parts)
    last = fmean(fmean(curve[-k:]) for curve, k in parts)
    error = math.sqrt(sum(2 * _noise(curve) / k for curve, k in parts)) / len(parts)
    fell = before - last
    return Fall(before, last) if fell > 2 * error and fell > _SHARE * abs(before) else None


def last_values(arm: Path, term: str) -> float | None:
    """A term's mean over the last tenth of training and all seeds; None where no report holds it."""
    curves = read_curves(arm).get(term)
    if not curves:
        return None
    return fmean(fmean(value for _, value in curve[-max(len(curve) // 10, 1) :]) for curve in curves)


def _noise(curve: list[float]) -> float:
    """The variance of one report."""
    half = curve[len(curve) // 2 - 1 :]
    return fmean((a - 2 * b + c) ** 2 for a, b, c in zip(half, half[1:], half[2:], strict=False)) / 6
