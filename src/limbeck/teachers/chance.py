"""How often is one right who guesses?"""

from __future__ import annotations

from typing import NamedTuple


class Chance(NamedTuple):
    """What guessing gives.

    Attributes:
        share: Of the examples that it gets right, on average: one in as many as there are classes.
        reach: What it may come to on so few examples: two standard errors more.
    """

    share: float
    reach: float


def chance_of(classes: int, examples: int) -> Chance:
    """What guessing gives on so many examples.

    Example:
        >>> round(chance_of(10, 900).reach, 6)
        0.12
    """
    share = 1.0 / classes
    return Chance(share, share + 2.0 * (share * (1.0 - share) / max(examples, 1)) ** 0.5)
