"""The verdict on two arms: difference, interval and sentence."""

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
"""The results of an arm: an accuracy per seed, or whether each test example (column) is right for each seed (row)."""

_CALLED = {
    "label smoothing": "label smoothing, which needs no teacher",
    "teacher texts": "sequence-level distillation, which learns the teacher's texts alone",
    "shuffled teacher": "a shuffled teacher, whose answers are about other {examples}",
    "post-training quantization": "post-training quantization, the same student rounded without training",
}


class Verdict(NamedTuple):
    """The result of a comparison of two arms.

    Attributes:
        difference: The gain of the distilled student over the student alone, in the unit of the score: the difference
            of the means, with its sign changed if a lower score is better.
        interval: Its 95 % interval; None with a single seed. It is corrected for the number of methods.
        helps: Whether the whole interval lies above zero; None without an interval.
        sentence: The verdict as a sentence.
        p: The two-sided p-value, corrected for the number of methods. It is below 0.05 exactly if zero lies outside
            the interval.
        covers: The sources of chance in the interval, see `limbeck.metrics.Difference`.
        comparisons: The number of methods from which this one was chosen.
        examples: The number of test examples that the interval covers; 0 if it covers seeds alone.
    """

    difference: float
    interval: tuple[float, float] | None
    helps: bool | None
    sentence: str
    p: float | None = None
    covers: Covers = "seeds"
    comparisons: int = 1
    examples: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {**self._asdict(), "interval": list(self.interval) if self.interval is not None else None}


def compare_with_baseline(
    ours: Results,
    baseline: Results,
    *,
    name: str = "the same student trained alone",
    examples: int = 0,
    comparisons: int = 1,
    score: Score = ACCURACY,
) -> Verdict:
    """Compare a distilled student with the student alone.

    Args:
        ours: For each seed, whether each test example is right, or its score, ``[seeds, examples]``: then
            the interval allows for other seeds and other test examples (`limbeck.metrics.compare_scores`). Or an
            accuracy for each seed, a fraction: then it allows for other test examples only as far as their number goes
            (`compare_accuracies`).
        baseline: The baseline, with the same seeds, on the same examples.
        name: The name of the baseline in the sentence.
        examples: The number of test examples of the accuracies; 0 if it is unknown.
        comparisons: The number of methods from which this one was chosen.
        score: The primary metric of the task: its direction and its words.

    Example:
        >>> print(compare_with_baseline([0.95, 0.96, 0.95], [0.93, 0.94, 0.94]).sentence)
        Distilling helped: +1.67 points of accuracy over the same student trained alone (95 % interval +0.23 to +3.10, \
3 paired seeds, with the sampling of test examples left out).
    """
    difference = compare_results(ours, baseline, examples=examples, comparisons=comparisons, score=score)
    gain = _describe_gain(difference.mean, score, name)
    if difference.low is None or difference.high is None:
        more = "run it with --seeds 5" if difference.pairs == 1 else "measure it on more test data"
        sentence = (
            f"Unknown. One {_lone(difference, score)} gives {gain} and no interval: {more} before you rely on it."
        )
        return _verdict(difference, sentence, comparisons)
    interval = _interval(difference, comparisons, score)
    if difference.low > 0:
        return _verdict(difference, f"Distilling helped: {gain} {interval}.", comparisons)
    if difference.high < 0:
        return _verdict(difference, f"Not worth it: {gain} {interval}.", comparisons)
    return _verdict(difference, f"Not shown to help: {gain} {interval}, and zero lies inside it.", comparisons)


def compare_with_control(
    ours: Results,
    control: Results,
    *,
    name: str,
    arm: str = "",
    examples: int = 0,
    comparisons: int = 1,
    score: Score = ACCURACY,
) -> Verdict:
    """Compare a distilled student with a control; `helps` is whether the distilled student is better.

    Args:
        ours: As for `compare_with_baseline`.
        control: The control, with the same seeds, on the same examples.
        name: The name of the control: "label smoothing", "shuffled teacher".
        arm: The name of the distilled student in the sentence; without a name it is called "it".
        examples: As for `compare_with_baseline`.
        comparisons: As for `compare_with_baseline`.
        score: As for `compare_with_baseline`.

    Example:
        >>> print(compare_with_control([0.95, 0.96, 0.95], [0.93, 0.94, 0.94], name="label smoothing").sentence)
        It beats label smoothing, which needs no teacher, by 1.67 points (95 % interval +0.23 to +3.10, 3 paired \
seeds, with the sampling of test examples left out).
    """
    difference = compare_results(ours, control, examples=examples, comparisons=comparisons, score=score)
    called = _CALLED[name].format(examples=score.examples) if name in _CALLED else name
    comma = "," if called != name else ""  # it ends a relative clause
    size = _describe_size(difference.mean, score)
    if difference.low is None or difference.high is None:
        sentence = f"Compared with {called}: unknown; one {_lone(difference, score)} gives {size}."
        return _verdict(difference, sentence, comparisons)
    interval = _interval(difference, comparisons, score)
    unit = f" {score.title}" if score.countable else ""
    gap = f"{score.format_difference(abs(difference.mean)).lstrip('+')}{unit} {interval}"
    if difference.low > 0:
        return _verdict(difference, f"{arm or 'It'} beats {called}{comma} by {gap}.", comparisons)
    if difference.high < 0:
        return _verdict(difference, f"But {called}{comma} beats {arm or 'it'} by {gap}.", comparisons)
    between = f"between {arm} and {called}" if arm else f"to {called}"
    return _verdict(difference, f"No clear difference {between}: {size} {interval}.", comparisons)


def compare_results(
    ours: Results, theirs: Results, *, examples: int = 0, comparisons: int = 1, score: Score = ACCURACY
) -> Difference:
    """The gain of the first of two arms, from the examples with a score in both arms."""
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
    return Verdict(
        difference.mean, interval, helps, sentence, difference.p, difference.covers, comparisons, difference.examples
    )


def _lone(difference: Difference, score: Score) -> str:
    return "seed" if difference.pairs == 1 else f"test {score.examples.removesuffix('s')}"


def _interval(difference: Difference, comparisons: int, score: Score) -> str:
    low, high = difference.low or 0.0, difference.high or 0.0
    over = {
        "seeds": f", with the sampling of test {score.examples} left out",
        "seeds and test examples": f" and {difference.examples:,} test {score.examples}",
        "seeds and a bound for test "
        "examples": f" and {difference.examples:,} test {score.examples}, wide for lack of predictions",
    }[difference.covers]
    wider = f"; for the best of {comparisons} methods" if comparisons > 1 else ""
    ends = " to ".join(end.removesuffix(" points") for end in score.format_interval(low, high))
    return f"(95 % interval {ends}, {difference.pairs} paired seeds{over}{wider})"


def _describe_size(gain: float, score: Score) -> str:
    """A gain with its unit: with a sign, or as less or more where less is better."""
    return score.format_gain(gain) if score.higher_is_better else f"{score.format_gain(gain)} {score.title}"


def _describe_gain(gain: float, score: Score, other: str) -> str:
    if score.higher_is_better:
        return f"{score.format_gain(gain)} of {score.title} over {other}"
    return f"{_describe_size(gain, score)} than {other}"
