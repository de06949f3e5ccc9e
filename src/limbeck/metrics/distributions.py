"""Student's t and binomial tails, and adjusted p-values.

They are the functions that scipy.stats calls too: to load all of that takes longer than a report's figures.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=256)
def t_ppf(share: float, degrees: int) -> float:
    """The value that Student's t with so many degrees of freedom stays below with this probability.

    Example:
        >>> round(t_ppf(0.975, 4), 4)
        2.7764
    """
    from scipy.special import stdtrit

    return float(stdtrit(degrees, share))


def t_isf(tail: np.ndarray, degrees: int) -> np.ndarray:
    """The values that Student's t is above with these probabilities, which may be as small as numbers are.

    Example:
        >>> t_isf(np.array([0.025, 1e-12]), 4).round(4).tolist()
        [2.7764, 1316.0727]
    """
    from scipy.special import stdtrit

    return -np.asarray(stdtrit(degrees, tail))


def t_sf(score: np.ndarray | float, degrees: int) -> np.ndarray:
    """The probability that Student's t with so many degrees of freedom is above a score.

    Example:
        >>> float(t_sf(0.0, 4))
        0.5
    """
    from scipy.special import stdtr

    return np.asarray(stdtr(degrees, -np.asarray(score, dtype=np.float64)))


def binomial_cdf(heads: np.ndarray, tosses: np.ndarray) -> np.ndarray:
    """The probability of at most so many heads in so many tosses of a fair coin.

    Example:
        >>> binomial_cdf(np.array([0, 1]), np.array([1, 2])).tolist()
        [0.5, 0.75]
    """
    from scipy.special import bdtr

    return np.asarray(bdtr(heads.astype(np.float64), tosses.astype(np.int64), 0.5))


def false_discovery_rates(p: np.ndarray) -> np.ndarray:
    r"""For each p-value the least false-discovery rate at which it is called: Benjamini and Hochberg's adjusted ones.

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
