"""How sure is a difference between two arms?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from limbeck.errors import LimbeckError
from limbeck.measure.chance import student_quantile, student_tail


class Difference(NamedTuple):
    """A mean paired difference with its interval.

    Attributes:
        mean: Over pairs.
        low: The interval's lower end; None where one pair is all there is.
        high: Its upper end.
        pairs: How many.
        p: How often equal arms would be so far apart, two-sided; None where one pair is all there is.
    """

    mean: float
    low: float | None
    high: float | None
    pairs: int
    p: float | None = None


def paired_difference(
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    confidence: float = 0.95,
    resolution: float = 0.0,
    largest: float = math.inf,
) -> Difference:
    r"""The mean of ``ours - theirs`` over pairs, with Student's t interval.

    With differences :math:`d_1 ... d_n`, their mean :math:`\bar d` and standard deviation s, the interval is
    :math:`\bar d \pm t_{n-1} s / \sqrt n`. It covers for normally distributed differences at every n from 2; a
    bootstrap over 3 to 5 seeds does not (it calls equal arms different in 15 to 22 % of simulations). A single pair
    gives none.

    Accuracies on N examples come in steps of 1/N, so that differences may be all the same by rounding alone, and an
    interval of no width would be sure of them. s is therefore never taken to be below the rounding's own standard
    deviation, :math:`\sqrt{1/6}` steps for a difference of two.

    Args:
        ours: One value for each seed.
        theirs: The values for the same seeds, in the same order.
        confidence: The share of intervals that hold the true mean.
        resolution: The step in which the values come, such as 1/N; 0 if they are as fine as numbers are.
        largest: The greatest difference that there can be, 1 between two fractions: no interval goes beyond it.

    Raises:
        LimbeckError: If the two have no values, or not the same number.

    Example:
        >>> paired_difference([0.93, 0.94, 0.95], [0.91, 0.93, 0.93]).mean > 0.016
        True

    Source: Student, The probable error of a mean, Biometrika 6, 1908.
    """
    if not ours or len(ours) != len(theirs):
        raise LimbeckError(f"Paired arms have one value for each seed; got {len(ours)} and {len(theirs)}.")
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    n = len(differences)
    mean = sum(differences) / n
    if n == 1:
        return Difference(mean, None, None, 1)
    deviation = max(spread(differences), resolution * math.sqrt(1 / 6))
    half = student_quantile(0.5 + confidence / 2, n - 1) * deviation / math.sqrt(n)
    # A difference of nothing is no evidence; one without any spread, which exact values can have, leaves no doubt.
    score = 0.0 if mean == 0 else abs(mean) * math.sqrt(n) / deviation if deviation else math.inf
    low, high = max(mean - half, -largest), min(mean + half, largest)
    return Difference(mean, low, high, n, 2 * float(student_tail(score, n - 1)))


def holm(p: Sequence[float]) -> list[float]:
    r"""Adjusted p-values, for as many tests as there are: the family-wise error is kept whatever their dependence.

    In increasing order :math:`\tilde p_{(i)} = \max_{j \le i} \min(1, (m - j + 1) p_{(j)})`.

    Example:
        >>> [round(one, 3) for one in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]

    Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979.
    """
    order = sorted(range(len(p)), key=lambda i: p[i])
    found, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        found[i] = largest
    return found


def spread(values: Sequence[float]) -> float:
    """The sample standard deviation (n - 1); 0 for a single value."""
    if len(values) < 2:
        return 0.0
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
