"""Student's t and binomial tails, and adjusted p-values.

These are the functions that scipy.stats calls. Importing scipy.stats itself takes longer than drawing a report.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=256)
def t_ppf(share: float, degrees: int) -> float:
    """Compute the quantile of Student's t distribution.

    Example:
        >>> round(t_ppf(0.975, 4), 4)
        2.7764
    """
    from scipy.special import stdtrit

    return float(stdtrit(degrees, share))


def t_isf(tail: np.ndarray, degrees: int) -> np.ndarray:
    """Compute the inverse survival function of Student's t distribution, precise for tiny probabilities.

    Example:
        >>> t_isf(np.array([0.025, 1e-12]), 4).round(4).tolist()
        [2.7764, 1316.0727]
    """
    from scipy.special import stdtrit

    return -np.asarray(stdtrit(degrees, tail))


def t_sf(score: np.ndarray | float, degrees: int) -> np.ndarray:
    """Compute the survival function of Student's t distribution.

    Example:
        >>> float(t_sf(0.0, 4))
        0.5
    """
    from scipy.special import stdtr

    return np.asarray(stdtr(degrees, -np.asarray(score, dtype=np.float64)))


def binomial_cdf(heads: np.ndarray, tosses: np.ndarray) -> np.ndarray:
    """Compute the cumulative distribution of the binomial distribution with probability one half.

    Example:
        >>> binomial_cdf(np.array([0, 1]), np.array([1, 2])).tolist()
        [0.5, 0.75]
    """
    from scipy.special import bdtr

    return np.asarray(bdtr(heads.astype(np.float64), tosses.astype(np.int64), 0.5))


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
