"""Was distilling worth it, in plain words?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from limbeck.measure import Difference, paired_difference

_CALLED = {
    "label smoothing": "label smoothing, which needs no teacher",
    "shuffled teacher": "a shuffled teacher, whose answers are about other examples",
}


class Verdict(NamedTuple):
    """Whether distilling helped.

    Attributes:
        difference: Mean accuracy of the distilled student less that of the student alone, a fraction.
        interval: Its 95 % interval; None with a single seed.
        helps: Whether the whole interval lies above zero; None where no interval is.
        sentence: The same for people.
    """

    difference: float
    interval: tuple[float, float] | None
    helps: bool | None
    sentence: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        interval = list(self.interval) if self.interval is not None else None
        return {"difference": self.difference, "interval": interval, "helps": self.helps, "sentence": self.sentence}


def judge(distilled: Sequence[float], alone: Sequence[float], *, examples: int = 0) -> Verdict:
    """The verdict on paired accuracies, each a fraction.

    Args:
        distilled: One for each seed.
        alone: The student alone, with the same seeds.
        examples: How many examples they were measured on, where known; see `paired_difference`, resolution.

    Example:
        >>> print(judge([0.95, 0.96, 0.95], [0.93, 0.94, 0.94]).sentence)
        Distilling helped: +1.67 points of accuracy over the same student trained alone (95 % interval +0.23 to +3.10, \
3 paired seeds).
    """
    found = paired_difference(distilled, alone, resolution=1 / examples if examples else 0.0, largest=1.0)
    measured = f"{_points(found.mean)} of accuracy over the same student trained alone"
    if found.low is None or found.high is None:
        said = f"One seed says {measured}, and one seed has no interval: run it with --seeds 5 before believing it."
        return Verdict(found.mean, None, None, said)
    interval = (found.low, found.high)
    if found.low > 0:
        return Verdict(found.mean, interval, True, f"Distilling helped: {measured} {_interval(found)}.")
    if found.high < 0:
        return Verdict(found.mean, interval, False, f"Not worth it: {measured} {_interval(found)}.")
    said = f"Not worth it on this evidence: {measured} {_interval(found)}, and zero lies inside it."
    return Verdict(found.mean, interval, False, said)


def set_beside(distilled: Sequence[float], control: Sequence[float], *, name: str, examples: int = 0) -> Verdict:
    """The distilled student beside a control that nobody teaches; `helps` says whether it is the better of the two.

    Args:
        distilled: As for `judge`.
        control: The control, with the same seeds.
        name: What it is called: "label smoothing", "shuffled teacher".
        examples: As for `judge`.

    Example:
        >>> print(set_beside([0.95, 0.96, 0.95], [0.93, 0.94, 0.94], name="label smoothing").sentence)
        It beats label smoothing, which needs no teacher, by 1.67 points (95 % interval +0.23 to +3.10, 3 paired seeds).
    """
    found = paired_difference(distilled, control, resolution=1 / examples if examples else 0.0, largest=1.0)
    called = _CALLED.get(name, name)
    if found.low is None or found.high is None:
        said = f"Beside {called}: {_points(found.mean)} with this one seed."
        return Verdict(found.mean, None, None, said)
    interval = (found.low, found.high)
    gap = f"{100 * abs(found.mean):.2f} points {_interval(found)}"
    if found.low > 0:
        return Verdict(found.mean, interval, True, f"It beats {called}, by {gap}.")
    if found.high < 0:
        return Verdict(found.mean, interval, False, f"But {called}, beats it by {gap}.")
    said = f"Beside {called}, nothing is sure: {_points(found.mean)} {_interval(found)}."
    return Verdict(found.mean, interval, False, said)


def _interval(found: Difference) -> str:
    low, high = found.low or 0.0, found.high or 0.0
    return f"(95 % interval {100 * low:+.2f} to {100 * high:+.2f}, {found.pairs} paired seeds)"


def _points(value: float) -> str:
    return f"{100 * value:+.2f} points"
