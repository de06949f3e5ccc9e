"""Which values does a search begin with, so that few trials see all of a range?"""

from __future__ import annotations

import torch
from torch.quasirandom import SobolEngine

from limbeck.compare.tuning.space import Space, Values
from limbeck.methods.range import Range

_SHARED = ("lr", "epochs")  # what every arm has: all arms try the same of these
_COLUMNS = 32


def spread(space: Space, number: int) -> Values:
    """Point `number`, from 0, of a scrambled Sobol sequence over a space.

    Of the first 2^k points each 2^k-th part of every range (of its logarithm, for a range of factors) holds exactly
    one. Values drawn at random leave gaps: of seven learning rates six may lie in one half, and an arm that was unlucky
    looks worse than it is. All arms try the same learning rates.

    Source: Sobol, On the distribution of points in a cube and the approximate evaluation of integrals, 1967; scrambled
    as Matousek, On the L2-discrepancy for anchored boxes, 1998; the sequence is PyTorch's.

    Example:
        >>> space = {"lr": Range(1e-4, 1.0, log=True)}
        >>> [f"{rate:.4f}" for rate in sorted(spread(space, number)["lr"] for number in range(4))]
        ['0.0006', '0.0080', '0.0503', '0.4151']
    """
    names = sorted(space, key=lambda name: (_SHARED.index(name) if name in _SHARED else len(_SHARED), name))
    engine = SobolEngine(max(_COLUMNS, len(names)), scramble=True, seed=0)
    point: list[float] = engine.draw(number + 1, dtype=torch.float64)[-1].tolist()
    return {name: _at(space[name], part) for name, part in zip(names, point, strict=False)}


def _at(found: Range, part: float) -> int | float:
    """The value that has this fraction of a range below it."""
    aside = 0.5 if found.whole else 0.0
    low, high = found.low - aside, found.high + aside
    value = low * (high / low) ** part if found.log else low + (high - low) * part
    value = min(max(value, found.low), found.high)
    return round(value) if found.whole else float(value)
