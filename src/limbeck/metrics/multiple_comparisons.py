"""Corrections for several comparisons at once: Benjamini and Hochberg, Holm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def false_discovery_rates(p: np.ndarray) -> np.ndarray:
    r"""Adjust p-values for the false-discovery rate, by the procedure of Benjamini and Hochberg.

    In increasing order :math:`\tilde p_{(i)} = \min(1, \min_{j \ge i} p_{(j)} m / j)`.

    Example:
        >>> false_discovery_rates(np.array([0.01, 0.04, 0.03])).tolist()
        [0.03, 0.04, 0.04]

    Source: Benjamini and Hochberg, Controlling the False Discovery Rate, 1995.
    """
    order = np.argsort(p)
    scaled = p[order] * (len(p) / np.arange(1, len(p) + 1))
    rates = np.empty_like(scaled)
    rates[order] = np.minimum.accumulate(scaled[::-1])[::-1]
    return np.clip(rates, 0.0, 1.0)


def holm_comparisons(p_values: Sequence[float], *, level: float = 0.05) -> list[int]:
    """Count the comparisons that each interval of several is corrected for, by the procedure of Holm.

    The smallest p-value counts all comparisons, the next one fewer, and so on, up to the first that is not below the
    level; it and all larger ones count the same. A corrected interval leaves out zero exactly if Holm's procedure
    rejects.

    Args:
        p_values: The two-sided p-values without correction.
        level: The probability of any wrong rejection.

    Example:
        >>> holm_comparisons([0.03, 0.001, 0.5])
        [2, 3, 2]

    Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    counts = [len(p_values)] * len(p_values)
    for place, at in enumerate(order):
        counts[at] = len(p_values) - place
        if counts[at] * p_values[at] >= level:
            for rest in order[place:]:
                counts[rest] = len(p_values) - place
            break
    return counts
