"""The mean difference between two arms, with an interval over seeds and test examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache, reduce
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from limbeck.errors import LimbeckError


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


_UNSEEN = 3
"""The number of additional examples on which two arms may differ (rule of three)."""
_LEAST = 1e-30
"""The smallest p-value that is reported."""
Covers = Literal["seeds", "seeds and test examples", "seeds and a bound for test examples"]
"""The sources of variation that an interval covers: other seeds, and other test examples of the same kind."""


class Difference(NamedTuple):
    """A mean paired difference with its interval.

    Attributes:
        mean: The mean over pairs.
        low: The lower end of the interval; None for a single pair.
        high: The upper end of the interval; None for a single pair.
        pairs: The number of pairs.
        p: The two-sided p-value; None for a single pair. It is below ``1 - confidence`` exactly if zero is outside the
            interval.
        covers: The sources of variation that the interval covers.
        examples: The number of test examples; 0 if the interval is over seeds alone.
    """

    mean: float
    low: float | None
    high: float | None
    pairs: int
    p: float | None = None
    covers: Covers = "seeds"
    examples: int = 0


def compare_scores(
    ours: ArrayLike,
    theirs: ArrayLike,
    *,
    confidence: float = 0.95,
    comparisons: int = 1,
    largest: float = math.inf,
) -> Difference:
    r"""Compute the mean of ``ours - theirs`` with an interval over seeds *and* test examples.

    Both arms are evaluated on the same n examples with the same S seeds. The difference of example i and seed s is
    :math:`d_{si} = \mu + a_s + b_i + e_{si}`, with a part of the seed, a part of the example, and a residual. The
    variance of the mean is :math:`\sigma_a^2/S + \sigma_b^2/n + \sigma_e^2/(Sn)`, estimated by

    .. math:: V_a = \operatorname{var}_s(\bar d_{s\cdot}) / S, \qquad
              V_b = \max(0, \operatorname{var}_i(\bar d_{\cdot i}) / n - \operatorname{var}(\text{residual}) / (Sn)),

    where the first includes the residual, which is therefore subtracted from the second (Owen's pigeonhole variance).
    Each part gets the quantile of its own degrees of freedom:

    .. math:: \bar d \pm \sqrt{t_{S-1}^2 V_a + t_{n-1}^2 V_b}.

    This is Banerjee's interval for a sum of two estimated variances, whose coverage is at least nominal for normal
    parts of any size. One t quantile with Satterthwaite's degrees of freedom is slightly narrower, but its coverage is
    only 92 % (3 seeds) or 87 % (2 seeds) if most of the variance is from the seeds, because seeds that agree by chance
    make their variance look small.

    Two corrections handle cases where the normal distribution is a bad approximation. *Few examples on which the arms
    differ*: if the arms agree on all n examples, up to 3/n of all examples may still differ (the rule of three). So the
    variance over examples is computed with three additional examples on which the arms differ by the largest observed
    difference; the mean is not changed. (Bonett and Price add two, with a coverage of 93.4 % if one arm alone wins 6 of
    1,000 examples; three have 94.5 %.) *Rounding*: accuracies on n examples come in steps of 1/n, so seeds can agree by
    rounding alone. Their standard deviation is therefore at least that of the rounding of a difference,
    :math:`\sqrt{1/6}` steps.

    The simulations are in `make bench NAME=coverage`. The interval is for other seeds of the same two training methods,
    with the same data and teacher, and for examples from the same distribution as the test set. Examples that belong
    together (frames of a film, tokens of a text) should be one score.

    Args:
        ours: A score for each seed (row) and test example (column), such as 1 for right and 0 for wrong, a squared
            error, or an intersection over union.
        theirs: The scores of the other arm, for the same seeds and examples.
        confidence: The confidence level of the interval.
        comparisons: The number of differences that are compared. Interval and p-value are corrected for it
            (Bonferroni).
        largest: The largest possible difference of one example: 1 for right and wrong.

    Returns:
        The difference. With a single seed or a single example it has no interval.

    Raises:
        LimbeckError: If the shapes differ, or a score is missing or not finite.

    Example:
        >>> ours = np.tile([1, 1, 1, 0] * 50, (3, 1))
        >>> theirs = np.tile([1, 0, 1, 0] * 50, (3, 1))
        >>> found = compare_scores(ours, theirs, largest=1.0)
        >>> found.mean, round(found.low, 3), round(found.high, 3)
        (0.25, 0.187, 0.313)

    Source: Owen, The pigeonhole bootstrap, 2007, arXiv:0712.1111; Banerjee, On confidence interval for two-means
    problem based on separate estimates of variances and tabulated values of t-table, Sankhya A 23, 1961; Hanley and
    Lippman-Hand, If nothing goes wrong, is everything all right?, JAMA 249, 1983; Bonett and Price, Adjusted Wald
    confidence interval for a difference of binomial proportions based on paired data, Journal of Educational and
    Behavioral Statistics 37, 2012.
    """
    first, second = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    _check_scores(first, second)
    d = first - second
    mean = float(d.mean())
    if 1 in d.shape:
        return Difference(mean, None, None, len(d))
    step = float(np.abs(d).max() or np.ptp([first, second]) or (largest if math.isfinite(largest) else 0.0))
    parts = _parts(d, mean, step)
    difference = _difference(mean, parts, len(d), confidence, comparisons, largest)
    return difference._replace(covers="seeds and test examples", examples=d.shape[1])


def interval_parts(
    ours: ArrayLike, theirs: ArrayLike, *, confidence: float = 0.95, comparisons: int = 1
) -> tuple[float, float]:
    r"""Compute the parts of the half width of `compare_scores` that are from seeds and from test examples.

    Their squares add up: the half width is :math:`\sqrt{h_{seeds}^2 + h_{examples}^2}`. If the difference of each
    example is the same in all seeds, as with training that draws no random numbers, the part of the seeds is 0. What is
    left of it in the width is the rounding of scores on few examples, and counts as a part of the examples.

    Args:
        ours: As for `compare_scores`, with at least two seeds and two examples.
        theirs: As for `compare_scores`.
        confidence: As for `compare_scores`.
        comparisons: As for `compare_scores`.

    Raises:
        LimbeckError: If there is a single seed or example, or as for `compare_scores`.

    Example:
        >>> ours = np.tile([1, 1, 1, 0] * 50, (3, 1))
        >>> seeds, examples = interval_parts(ours, np.tile([1, 0, 1, 0] * 50, (3, 1)))
        >>> seeds < examples
        True
    """
    first, second = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    _check_scores(first, second)
    if 1 in first.shape:
        raise LimbeckError(f"interval_parts needs at least two seeds and two examples; got {first.shape}.")
    d = first - second
    step = float(np.abs(d).max() or np.ptp([first, second]))
    seeds, examples = _parts(d, float(d.mean()), step)
    error = (1 - confidence) / comparisons
    if (d == d[0]).all():
        return 0.0, _half_width(error, (seeds, examples))
    return _half_width(error, (seeds,)), _half_width(error, (examples,))


def compare_accuracies(
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    examples: int = 0,
    confidence: float = 0.95,
    comparisons: int = 1,
) -> Difference:
    r"""Compare two arms when only the accuracy of each seed is known, not which examples were right.

    Then the number of test examples on which the arms differ is unknown. If examples that are hard for one arm are not
    easier for the other, the variance over examples is at most that of two arms with independent errors, :math:`(a (1 -
    a) + b (1 - b)) / n` for accuracies a and b. The interval uses this bound, so it is much wider than that of
    `compare_scores`.

    Args:
        ours: The accuracy of each seed, as a fraction.
        theirs: The accuracies of the other arm, with the same seeds on the same examples.
        examples: The number of test examples; 0 if unknown, then the interval is over seeds alone.
        confidence: As for `compare_scores`.
        comparisons: As for `compare_scores`.

    Raises:
        LimbeckError: If there are no values, or the numbers of values differ.

    Example:
        >>> found = compare_accuracies([0.95, 0.96, 0.95], [0.93, 0.94, 0.94], examples=1000)
        >>> round(found.low, 3), round(found.high, 3), found.covers
        (-0.008, 0.042, 'seeds and a bound for test examples')
    """
    d = _paired(ours, theirs)
    if len(d) == 1:
        return Difference(float(d[0]), None, None, 1)
    step = 1 / examples if examples else 0.0
    of_seeds = _Part(max(float(d.var(ddof=1)), step**2 / 6) / len(d), len(d) - 1)
    if not examples:
        return _difference(float(d.mean()), (of_seeds,), len(d), confidence, comparisons, 1.0)
    shares = float(np.mean(ours)), float(np.mean(theirs))
    most = (sum(share * (1 - share) for share in shares) + _UNSEEN * step) / examples
    parts = (of_seeds, _Part(most, max(examples - 1, 1)))
    difference = _difference(float(d.mean()), parts, len(d), confidence, comparisons, 1.0)
    return difference._replace(covers="seeds and a bound for test examples", examples=examples)


def paired_difference(
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    confidence: float = 0.95,
    resolution: float = 0.0,
    largest: float = math.inf,
    comparisons: int = 1,
) -> Difference:
    r"""Compute the mean of ``ours - theirs`` over pairs, with Student's t interval.

    With differences :math:`d_1 ... d_n`, their mean :math:`\bar d` and standard deviation s, the interval is
    :math:`\bar d \pm t_{n-1} s / \sqrt n`. Its coverage is exact for normal differences and every n from 2. A bootstrap
    over 3 to 5 seeds is not exact: it finds a difference between equal arms in 15 to 22 % of simulations. A single pair
    has no interval. The interval does not cover other test examples: see `compare_scores`.

    Accuracies on N examples come in steps of 1/N, so all differences can be equal by rounding alone, with an interval
    of zero width. Therefore s is at least the standard deviation of the rounding, :math:`\sqrt{1/6}` steps for a
    difference of two.

    Args:
        ours: One value per seed.
        theirs: The values for the same seeds, in the same order.
        confidence: The confidence level of the interval.
        resolution: The step of the values, such as 1/N; 0 for continuous values.
        largest: The largest possible difference, 1 between two fractions. It limits the interval.
        comparisons: As for `compare_scores`.

    Raises:
        LimbeckError: If there are no values, or the numbers of values differ.

    Example:
        >>> paired_difference([0.93, 0.94, 0.95], [0.91, 0.93, 0.93]).mean > 0.016
        True

    Source: Student, The probable error of a mean, Biometrika 6, 1908.
    """
    d = _paired(ours, theirs)
    if len(d) == 1:
        return Difference(float(d[0]), None, None, 1)
    of_seeds = max(float(d.var(ddof=1)), resolution**2 / 6) / len(d)
    parts = (_Part(of_seeds, len(d) - 1),)
    return _difference(float(d.mean()), parts, len(d), confidence, comparisons, largest)


class _Part(NamedTuple):
    """A component of the variance of a mean, with the degrees of freedom of its estimate."""

    variance: float
    degrees: int


def _parts(d: np.ndarray, mean: float, step: float) -> tuple[_Part, _Part]:
    """Estimate the variance components of seeds and examples. `step` is the rounding of the scores."""
    seeds, examples = d.shape
    off = d - mean
    by_seed, by_example = (float(np.square(off.mean(axis)).sum()) for axis in (1, 0))
    of_seeds = max(by_seed / (seeds - 1), (step / examples) ** 2 / 6) / seeds
    of_examples = (by_example + _UNSEEN * step**2) / ((examples - 1) * examples)
    rest = max(float(np.square(off).sum()) - examples * by_seed - seeds * by_example, 0.0)
    of_rest = rest / ((seeds - 1) * (examples - 1) * seeds * examples)
    return _Part(of_seeds, seeds - 1), _Part(max(of_examples - of_rest, 0.0), examples - 1)


def _difference(
    mean: float, parts: Sequence[_Part], pairs: int, confidence: float, comparisons: int, largest: float
) -> Difference:
    if comparisons < 1:
        raise LimbeckError(f"comparisons must be at least 1; got {comparisons}.")
    if not 0 < confidence < 1:
        raise LimbeckError(f"confidence must be between 0 and 1, such as 0.95; got {confidence}.")
    half = _half_width((1 - confidence) / comparisons, parts)
    low, high = max(mean - half, -largest), min(mean + half, largest)
    return Difference(mean, low, high, pairs, min(1.0, comparisons * _p_value(mean, parts)))


def _half_width(error: float, parts: Sequence[_Part]) -> float:
    """Compute the half width of the interval with this error probability."""
    return float(_half_widths(np.array([error]), parts)[0])


def _half_widths(errors: np.ndarray, parts: Sequence[_Part]) -> np.ndarray:
    of_parts = [t_isf(errors / 2, part.degrees) * math.sqrt(part.variance) for part in parts]
    return np.asarray(reduce(np.hypot, of_parts))


def _p_value(mean: float, parts: Sequence[_Part]) -> float:
    """Find the error probability at which the interval just reaches zero, by bisection of its logarithm."""
    if mean == 0:  # a zero difference is no evidence
        return 1.0
    if not any(part.variance for part in parts):  # exact values without any spread
        return 0.0
    if len(parts) == 1:
        return 2 * float(t_sf(abs(mean) / math.sqrt(parts[0].variance), parts[0].degrees))
    low, high = math.log(_LEAST), 0.0
    for _ in range(12):
        tried = np.linspace(low, high, 9)
        wider = int((_half_widths(np.exp(tried), parts) > abs(mean)).sum())
        low, high = float(tried[max(wider - 1, 0)]), float(tried[min(wider, 8)])
    return math.exp((low + high) / 2)


def _paired(ours: Sequence[float], theirs: Sequence[float]) -> np.ndarray:
    if not len(ours) or len(ours) != len(theirs):
        raise LimbeckError(f"Paired arms need one value per seed; got {len(ours)} and {len(theirs)}.")
    return np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)


def _check_scores(ours: np.ndarray, theirs: np.ndarray) -> None:
    if ours.ndim != 2 or ours.shape != theirs.shape or not ours.size:
        raise LimbeckError(
            "Scores must have the same shape [seeds, examples], with the same examples in the same "
            f"order; got {list(ours.shape)} and {list(theirs.shape)}."
        )
    for name, scores in (("ours", ours), ("theirs", theirs)):
        if not np.isfinite(scores).all():
            seed, example = (int(index) for index in np.argwhere(~np.isfinite(scores))[0])
            raise LimbeckError(
                f"{name}[{seed}, {example}] is {scores[seed, example]}: a score is a finite number. Leave out the "
                "examples that have none, in both arms."
            )
