"""Claims of papers, and the word that paired seeds give each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any, Literal, NamedTuple

import numpy as np

from limbeck.errors import LimbeckError
from limbeck.metrics.multiple_comparisons import holm_comparisons
from limbeck.metrics.statistics import Difference, paired_difference

Word = Literal["shown", "opposite", "not shown"]
"""``shown``: the interval is on the claimed side. ``opposite``: it is on the other side. ``not shown``: neither."""
Column = Callable[[str, str], list[float]]
"""A function of an arm and the key of a figure that returns its numbers by seed."""
_LEVEL = 0.05


class Figure(NamedTuple):
    """A number that is measured of each arm and seed.

    Attributes:
        key: Its name in the results of a task.
        title: Its name in the table.
        unit: ``%``, ``nats``, ``s``, ...
        lower_is_better: Whether smaller numbers are better.
        resolution: The step of its values, such as 100/N for a percentage of N examples; 0 for continuous values.
        examples: The key of N in the results of a task; it replaces `resolution` where a task has it.
    """

    key: str
    title: str
    unit: str
    lower_is_better: bool = False
    resolution: float = 0.0
    examples: str = ""

    def find_resolution(self, arms: Sequence[str], column: Column) -> float:
        """The coarsest step of the values of some arms.

        Example:
            >>> figure = Figure("accuracy", "accuracy", "%", resolution=0.05, examples="n")
            >>> figure.find_resolution(["kd"], lambda arm, key: {"n": [1000.0]}[key])
            0.1
        """
        try:
            counts = [one for arm in arms for one in column(arm, self.examples)] if self.examples else []
        except KeyError:  # results of a function that does not count its examples
            counts = []
        return 100 / min(counts) if counts else self.resolution


@dataclass(frozen=True)
class Claim:
    """A claim of a paper as numbers: one for each seed, and the values that their mean has if the claim holds.

    `Claim.of_difference`, `of_equality`, `of_trend` and `of_correlation` make the usual ones.

    Attributes:
        sentence: The claim in words, short enough for a table.
        values: Maps a `Column` to one number for each seed.
        unit: The unit of these numbers.
        bounds: The claimed values of the mean: above the first, and below the second.
        resolution: As for `Figure`, or a function of the `Column` that finds it.
        paper: The number of the paper; None if its data differ too much.
        largest: The largest possible number of a seed, which limits the interval: 100 for points, 1 for correlations.
        lower_is_better: Whether the numbers are differences whose sign was turned, so that positive is better.
    """

    sentence: str
    values: Callable[[Column], Sequence[float]]
    unit: str = "points"
    bounds: tuple[float, float] = (0.0, math.inf)
    resolution: float | Callable[[Column], float] = 0.0
    paper: float | None = None
    largest: float = math.inf
    lower_is_better: bool = False

    @classmethod
    def of_difference(
        cls, arm: str, over: str, figure: Figure, *, margin: float = 0.0, sentence: str = "", paper: float | None = None
    ) -> Claim:
        """Claim that an arm is better than another one in a figure, by more than a margin.

        Args:
            arm: The better arm.
            over: The other arm.
            figure: The figure. Where lower is better, the value of a seed is ``over - arm``.
            margin: The least difference, in the unit of the figure. A negative one claims "not much worse".
            sentence: The claim in words; by default ``arm over over: figure``.
            paper: The difference in the paper.

        Example:
            >>> claim = Claim.of_difference("kd", "alone", Figure("accuracy", "accuracy", "%"))
            >>> judge_claims([claim], lambda arm, _: {"kd": [90.0, 91.0], "alone": [88.0, 88.5]}[arm])[0].mean
            2.25
        """
        sign = -1.0 if figure.lower_is_better else 1.0

        def values(column: Column) -> list[float]:
            return [sign * (a - b) for a, b in zip(column(arm, figure.key), column(over, figure.key), strict=True)]

        words = sentence or f"{arm} over {over}: {figure.title}"
        bounds, unit = (margin, math.inf), _unit_of_difference(figure)
        resolution = partial(figure.find_resolution, (arm, over))
        return cls(words, values, unit, bounds, resolution, paper, _largest(figure), figure.lower_is_better)

    @classmethod
    def of_equality(cls, arm: str, other: str, figure: Figure, *, margin: float, sentence: str = "") -> Claim:
        """Claim that two arms differ by less than a margin in a figure."""

        def values(column: Column) -> list[float]:
            return [a - b for a, b in zip(column(arm, figure.key), column(other, figure.key), strict=True)]

        words = sentence or f"{arm} like {other}, within {margin:g}: {figure.title}"
        bounds, unit = (-margin, margin), _unit_of_difference(figure)
        resolution = partial(figure.find_resolution, (arm, other))
        return cls(words, values, unit, bounds, resolution, largest=_largest(figure))

    @classmethod
    def of_trend(cls, arms: Sequence[str], figure: Figure, *, increases: bool = True, sentence: str = "") -> Claim:
        """Claim that a figure increases (or decreases) over arms in this order.

        The value of a seed is Spearman's rank correlation between the order and the figure, with the claimed sign. Of n
        arms it has steps of 12 / (n^3 - n): a few seeds with the same order agree by chance, as in rounding.

        Raises:
            LimbeckError: If there are fewer than two arms.
        """
        sign, count = 1.0 if increases else -1.0, _check_arms(arms, 2, "trend")

        def values(column: Column) -> list[float]:
            rows = zip(*(column(arm, figure.key) for arm in arms), strict=True)
            return [sign * correlate(range(len(arms)), row, ranks=True) for row in rows]

        words = sentence or f"{figure.title} {'increases' if increases else 'decreases'} over {', '.join(arms)}"
        return cls(words, values, "correlation", resolution=12 / (count**3 - count), largest=1.0)

    @classmethod
    def of_correlation(
        cls, arms: Sequence[str], first: Figure, second: Figure, *, positive: bool = True, sentence: str = ""
    ) -> Claim:
        """Claim that two figures are correlated over arms, positively or negatively. The value is Pearson's.

        Raises:
            LimbeckError: If there are fewer than three arms: two points are always on a line.
        """
        sign = 1.0 if positive else -1.0
        _check_arms(arms, 3, "correlation")

        def values(column: Column) -> list[float]:
            pairs = [zip(*(column(arm, figure.key) for arm in arms), strict=True) for figure in (first, second)]
            return [sign * correlate(x, y) for x, y in zip(*pairs, strict=True)]

        words = sentence or f"{first.title} and {second.title} are {'' if positive else 'negatively '}correlated"
        return cls(words, values, "correlation", largest=1.0)


class ClaimResult(NamedTuple):
    """What came out of a claim.

    Attributes:
        claim: The claim in words.
        word: ``shown``, ``opposite`` or ``not shown``.
        mean: The mean over seeds.
        low: The lower end of the interval; None with one seed.
        high: The upper end of the interval; None with one seed.
        unit: The unit of these numbers.
        bounds: The claimed values of the mean.
        seeds: The number of seeds.
        values: The number of each seed.
        comparisons: The number of comparisons that the interval is corrected for.
        paper: The number of the paper, or None.
        lower_is_better: Whether the sign was turned, so that a positive mean says by how much lower, which is better.
    """

    claim: str
    word: Word
    mean: float
    low: float | None
    high: float | None
    unit: str
    bounds: tuple[float, float] = (0.0, math.inf)
    seeds: int = 0
    values: tuple[float, ...] = ()
    comparisons: int = 1
    paper: float | None = None
    lower_is_better: bool = False

    def as_json(self) -> dict[str, Any]:
        """Convert the result to the format of ``--json``: a bound that is not there is None."""
        bounds = [bound if math.isfinite(bound) else None for bound in self.bounds]
        return {**self._asdict(), "bounds": bounds, "values": list(self.values)}


def judge_claims(claims: Sequence[Claim], column: Column) -> list[ClaimResult]:
    r"""Give each claim its interval and its word, with Holm's correction for the number of claims.

    Of m claims in the order of their p-values, the first has an interval of confidence :math:`1 - 0.05 / m`, the next
    :math:`1 - 0.05 / (m - 1)`, and so on up to the first whose interval holds its bound; the others have the confidence
    of that one. So a word other than ``not shown`` is given exactly if Holm's procedure rejects the bound, and the
    probability of a wrong word among all claims is at most 5 %.

    Args:
        claims: The claims.
        column: The numbers of arms by seed.

    Raises:
        LimbeckError: If a number is not finite.

    Example:
        >>> numbers = {"kd": [90.1, 90.4, 90.2], "alone": [88.0, 88.1, 88.3]}
        >>> claim = Claim.of_difference("kd", "alone", Figure("accuracy", "accuracy", "%"))
        >>> [(one.word, round(one.low, 1)) for one in judge_claims([claim], lambda arm, _: numbers[arm])]
        [('shown', 1.6)]

    Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979.
    """
    claims = [
        replace(claim, resolution=claim.resolution(column)) if callable(claim.resolution) else claim for claim in claims
    ]
    numbers = [_checked(claim, claim.values(column)) for claim in claims]
    p_values = [_p_value(claim, own) for claim, own in zip(claims, numbers, strict=True)]
    comparisons = holm_comparisons(p_values)
    return [_judge(claim, own, count) for claim, own, count in zip(claims, numbers, comparisons, strict=True)]


def judge_difference(
    sentence: str, difference: Difference, *, bounds: tuple[float, float] = (0.0, math.inf), unit: str = "points",
    scale: float = 1.0, values: Sequence[float] = (), comparisons: int = 1, paper: float | None = None,
    lower_is_better: bool = False,
) -> ClaimResult:  # fmt: skip
    """Give a claim its word, for a difference that was computed elsewhere, such as one over seeds and test examples.

    Args:
        sentence: The claim in words.
        difference: The difference with its interval, which is corrected for the number of comparisons.
        bounds: The claimed values, after scaling.
        unit: The unit, after scaling.
        scale: A factor: 100 for points of a difference of fractions.
        values: The number of each seed, after scaling.
        comparisons: The number of comparisons that the interval is corrected for.
        paper: The number of the paper.
        lower_is_better: Whether the sign of the difference was turned.
    """
    low, high = (None if end is None else scale * end for end in (difference.low, difference.high))
    return ClaimResult(
        sentence, choose_word(low, high, bounds), scale * difference.mean, low, high, unit, bounds, difference.pairs,
        tuple(values), comparisons, paper, lower_is_better,
    )  # fmt: skip


def choose_word(low: float | None, high: float | None, bounds: tuple[float, float] = (0.0, math.inf)) -> Word:
    """Choose the word for an interval.

    Example:
        >>> choose_word(0.1, 2.0), choose_word(-2.0, -0.1), choose_word(-1.0, 1.0), choose_word(None, None)
        ('shown', 'opposite', 'not shown', 'not shown')
    """
    if low is None or high is None:
        return "not shown"
    if low > bounds[0] and high < bounds[1]:
        return "shown"
    return "opposite" if high < bounds[0] or low > bounds[1] else "not shown"


def correlate(first: Sequence[float] | range, second: Sequence[float], *, ranks: bool = False) -> float:
    """Compute Pearson's correlation, or Spearman's of the ranks (the mean rank for ties). 0 if one side is constant.

    Example:
        >>> correlate([1.0, 2.0, 3.0], [1.0, 4.0, 9.0], ranks=True), correlate([1.0, 2.0], [5.0, 5.0])
        (1.0, 0.0)
    """
    x, y = (_rank(values) if ranks else np.asarray(values, dtype=np.float64) for values in (first, second))
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt(np.square(x).sum() * np.square(y).sum()))
    return min(1.0, max(-1.0, float(x @ y) / scale)) if scale > 0 else 0.0


def _rank(values: Sequence[float] | range) -> np.ndarray:
    own = np.asarray(values, dtype=np.float64)
    below, equal = (own[None, :] < own[:, None]).sum(1), (own[None, :] == own[:, None]).sum(1)
    return np.asarray(below + (equal - 1) / 2)


def _check_arms(arms: Sequence[str], least: int, what: str) -> int:
    """The number of arms."""
    if len(arms) < least:
        raise LimbeckError(f"A {what} needs at least {least} arms; got {list(arms)}.")
    return len(arms)


def _unit_of_difference(figure: Figure) -> str:
    return "points" if figure.unit == "%" else figure.unit


def _largest(figure: Figure) -> float:
    return 100.0 if figure.unit == "%" else math.inf


def _checked(claim: Claim, values: Sequence[float]) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if not numbers or not all(map(math.isfinite, numbers)):
        raise LimbeckError(
            f"The claim {claim.sentence!r} needs a finite number for each seed; got {list(numbers)}. A student whose "
            "training diverged has no figures: lower its learning rate, and run the study into a new folder (--out)."
        )
    return numbers


def _p_value(claim: Claim, values: Sequence[float]) -> float:
    """The p-value against the nearest bound; 1 with one seed."""
    if len(values) < 2:
        return 1.0
    ends = [bound for bound in claim.bounds if math.isfinite(bound)]
    nearest = min(ends, key=lambda bound: abs(fmean(values) - bound))
    found = paired_difference(values, [nearest] * len(values), resolution=_step_of(claim))
    return 1.0 if found.p is None else found.p


def _step_of(claim: Claim) -> float:
    """The resolution, which `judge_claims` has found before."""
    return 0.0 if callable(claim.resolution) else claim.resolution


def _judge(claim: Claim, values: Sequence[float], comparisons: int) -> ClaimResult:
    difference = paired_difference(
        values,
        [0.0] * len(values),
        confidence=1 - _LEVEL,
        resolution=_step_of(claim),
        largest=claim.largest,
        comparisons=comparisons,
    )
    return judge_difference(
        claim.sentence, difference, bounds=claim.bounds, unit=claim.unit, values=values, comparisons=comparisons,
        paper=claim.paper, lower_is_better=claim.lower_is_better,
    )  # fmt: skip


def count_words(claims: Sequence[Mapping[str, Any]]) -> dict[Word, int]:
    """Count the words of claims, as in ``--json``.

    Example:
        >>> count_words([{"word": "shown"}, {"word": "opposite"}, {"word": "shown"}])
        {'shown': 2, 'not shown': 0, 'opposite': 1}
    """
    words: tuple[Word, ...] = ("shown", "not shown", "opposite")
    return {word: sum(claim["word"] == word for claim in claims) for word in words}
