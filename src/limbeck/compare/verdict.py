"""Whether distilling was worth it, in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from limbeck.metrics import Difference, compare_accuracies, compare_scores, paired_difference
from limbeck.metrics.statistics import Covers
from limbeck.tasks import Classification, Score

ACCURACY = Classification.primary
Results = Sequence[float] | Bool[np.ndarray, "seeds examples"] | Float[np.ndarray, "seeds examples"]
"""What an arm came to: an accuracy for each seed, or for each seed (row) which test examples (columns) were right."""

_CALLED = {
    "label smoothing": "label smoothing, which needs no teacher",
    "shuffled teacher": "a shuffled teacher, whose answers are about other examples",
}


class Verdict(NamedTuple):
    """The result of a comparison of two arms.

    Attributes:
        difference: By how much the distilled student is better than the student alone, in the unit of the score: the
            difference of the means, with its sign changed where a lower score is better.
        interval: Its 95 % interval; None with a single seed. Of the best of several methods it is as much wider.
        helps: Whether the whole interval lies above zero; None where no interval is.
        sentence: The same for people.
        p: How often equal arms would be so far apart, two-sided, for as many methods as were tried; it is below 0.05
            exactly where zero lies outside the interval.
        covers: What the interval allows for, see `limbeck.metrics.Difference`.
        comparisons: Of how many methods this one is.
    """

    difference: float
    interval: tuple[float, float] | None
    helps: bool | None
    sentence: str
    p: float | None = None
    covers: Covers = "seeds"
    comparisons: int = 1

    def as_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {**self._asdict(), "interval": list(self.interval) if self.interval is not None else None}


def judge(
    distilled: Results, alone: Results, *, examples: int = 0, comparisons: int = 1, score: Score = ACCURACY
) -> Verdict:
    """Compare the distilled student with the student alone.

    Args:
        distilled: Which test examples were right, ``[seeds, examples]``: then the interval allows for other seeds and
            other test examples (`limbeck.metrics.compare_scores`). Or an accuracy for each seed, a fraction: then it
            allows for other test examples only as far as their number goes (`compare_accuracies`).
        alone: The student alone, with the same seeds, on the same examples.
        examples: How many test examples accuracies were measured on, where known.
        comparisons: How many methods were tried of which this one was chosen.
        score: The primary metric of the task: its direction and its words.

    Example:
        >>> print(judge([0.95, 0.96, 0.95], [0.93, 0.94, 0.94]).sentence)
        Distilling helped: +1.67 points of accuracy over the same student trained alone (95 % interval +0.23 to +3.10, \
3 paired seeds, with the sampling of test examples left out).
    """
    difference = compare_results(distilled, alone, examples=examples, comparisons=comparisons, score=score)
    measured = f"{_with_unit(difference.mean, score)} over the same student trained alone"
    if difference.low is None or difference.high is None:
        lone, more = _lone(difference), _more(difference)
        sentence = f"Unknown. {lone} gives {measured} and no interval: {more} before you rely on it."
        return _verdict(difference, sentence, comparisons)
    if difference.low > 0:
        return _verdict(
            difference, f"Distilling helped: {measured} {_interval(difference, comparisons, score)}.", comparisons
        )
    if difference.high < 0:
        return _verdict(
            difference, f"Not worth it: {measured} {_interval(difference, comparisons, score)}.", comparisons
        )
    sentence = f"Not shown to help: {measured} {_interval(difference, comparisons, score)}, and zero lies inside it."
    return _verdict(difference, sentence, comparisons)


def set_beside(
    distilled: Results,
    control: Results,
    *,
    name: str,
    examples: int = 0,
    comparisons: int = 1,
    score: Score = ACCURACY,
) -> Verdict:
    """Compare the distilled student with a control; `helps` says whether the distilled student is better.

    Args:
        distilled: As for `judge`.
        control: The control, with the same seeds, on the same examples.
        name: What it is called: "label smoothing", "shuffled teacher".
        examples: As for `judge`.
        comparisons: As for `judge`.
        score: As for `judge`.

    Example:
        >>> print(set_beside([0.95, 0.96, 0.95], [0.93, 0.94, 0.94], name="label smoothing").sentence)
        It beats label smoothing, which needs no teacher, by 1.67 points (95 % interval +0.23 to +3.10, 3 paired \
seeds, with the sampling of test examples left out).
    """
    difference = compare_results(distilled, control, examples=examples, comparisons=comparisons, score=score)
    called = _CALLED.get(name, name)
    if difference.low is None or difference.high is None:
        return _verdict(
            difference,
            f"Compared with {called}: unknown; {_lone(difference).lower()} gives {_signed(difference.mean, score)}.",
            comparisons,
        )
    gap = f"{score.format_difference(abs(difference.mean)).lstrip('+')} {_interval(difference, comparisons, score)}"
    if difference.low > 0:
        return _verdict(difference, f"It beats {called}, by {gap}.", comparisons)
    if difference.high < 0:
        return _verdict(difference, f"But {called}, beats it by {gap}.", comparisons)
    gap = f"{_signed(difference.mean, score)} {_interval(difference, comparisons, score)}"
    sentence = f"No clear difference to {called}: {gap}."
    return _verdict(difference, sentence, comparisons)


def compare_results(
    ours: Results, theirs: Results, *, examples: int = 0, comparisons: int = 1, score: Score = ACCURACY
) -> Difference:
    """By how much the first of two arms is better, from the scores of the examples where both arms know them."""
    first, second = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    if not score.higher_is_better:
        first, second = -first, -second
    if first.ndim == second.ndim == 2:
        return compare_scores(first, second, comparisons=comparisons, largest=score.largest)
    a, b = (each.mean(1) if each.ndim == 2 else each for each in (first, second))
    if score.name == ACCURACY.name:
        return compare_accuracies(a.tolist(), b.tolist(), examples=examples, comparisons=comparisons)
    return paired_difference(a.tolist(), b.tolist(), comparisons=comparisons, largest=score.largest)


def _verdict(difference: Difference, sentence: str, comparisons: int) -> Verdict:
    interval = None if difference.low is None or difference.high is None else (difference.low, difference.high)
    helps = None if interval is None else interval[0] > 0
    return Verdict(difference.mean, interval, helps, sentence, difference.p, difference.covers, comparisons)


def _lone(difference: Difference) -> str:
    return "One seed" if difference.pairs == 1 else "One test example"


def _more(difference: Difference) -> str:
    return "run it with --seeds 5" if difference.pairs == 1 else "measure it on more test data"


def _interval(difference: Difference, comparisons: int, score: Score) -> str:
    low, high = difference.low or 0.0, difference.high or 0.0
    over = {
        "seeds": ", with the sampling of test examples left out",
        "seeds and test examples": f" and {difference.examples:,} test examples",
        "seeds and a bound for test "
        "examples": f" and {difference.examples:,} test examples, wide for lack of predictions",
    }[difference.covers]
    wider = f"; for the best of {comparisons} methods" if comparisons > 1 else ""
    low_text, high_text = (_signed(end, score).removesuffix(" points") for end in (low, high))
    return f"(95 % interval {low_text} to {high_text}, {difference.pairs} paired seeds{over}{wider})"


def _signed(gain: float, score: Score) -> str:
    """A gain as the difference of the metric that people read: negative where lower is better."""
    return score.format_difference(gain if score.higher_is_better else -gain)


def _with_unit(gain: float, score: Score) -> str:
    return f"{_signed(gain, score)} of {score.title}"
