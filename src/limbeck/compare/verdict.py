"""Was distilling worth it, in plain words?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from limbeck.compare.statistics import Difference, paired_difference


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


def judge(
    distilled: Sequence[float], alone: Sequence[float], *, rival: str = "the same student trained alone"
) -> Verdict:
    """The verdict on paired accuracies, each a fraction.

    Example:
        >>> print(judge([0.95, 0.96, 0.95], [0.93, 0.94, 0.94]).sentence)
        Distilling helped: +1.67 points of accuracy over the same student trained alone (95 % interval +0.23 to +3.10, \
3 paired seeds).
    """
    found = paired_difference(distilled, alone)
    if found.low is None or found.high is None:
        return Verdict(found.mean, None, None, _single(found, rival))
    interval = (found.low, found.high)
    if found.low > 0:
        return Verdict(
            found.mean, interval, True, f"Distilling helped: {_points(found.mean)} {_measured(found, rival)}."
        )
    if found.high < 0:
        return Verdict(found.mean, interval, False, f"Not worth it: {_points(found.mean)} {_measured(found, rival)}.")
    said = f"Not worth it on this evidence: {_points(found.mean)} {_measured(found, rival)}, and zero lies inside it."
    return Verdict(found.mean, interval, False, said)


def _measured(found: Difference, rival: str) -> str:
    low, high = found.low or 0.0, found.high or 0.0
    interval = f"95 % interval {100 * low:+.2f} to {100 * high:+.2f}, {found.pairs} paired seeds"
    return f"of accuracy over {rival} ({interval})"


def _single(found: Difference, rival: str) -> str:
    return (
        f"One seed says {_points(found.mean)} of accuracy over {rival}, and one seed has no interval: "
        "run it with --seeds 5 before believing it."
    )


def _points(value: float) -> str:
    return f"{100 * value:+.2f} points"
