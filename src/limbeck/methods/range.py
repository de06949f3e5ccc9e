"""Between which values is a number searched?"""

from __future__ import annotations

from dataclasses import dataclass, replace

from limbeck.errors import LimbeckError


@dataclass(frozen=True)
class Range:
    """The values of a number that are tried, both ends included.

    Attributes:
        low: The least.
        high: The greatest; the same as `low` for a number that is held fixed.
        log: Whether equal factors are tried alike, and not equal steps.
        whole: Whether only whole numbers are.

    Raises:
        LimbeckError: If it holds no value, or is one of factors and begins at 0 or below.

    Example:
        >>> Range(1, 20, log=True).holding(40)
        Range(low=1, high=40, log=True, whole=False)
    """

    low: int | float
    high: int | float
    log: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise LimbeckError(f"A range runs from its least value to its greatest; got {self.low}..{self.high}.")
        if self.log and not self.low > 0:
            raise LimbeckError(f"Factors are searched in a range above 0; got {self.low}..{self.high}.")
        if self.whole and not (float(self.low).is_integer() and float(self.high).is_integer()):
            raise LimbeckError(f"A range of whole numbers begins and ends with one; got {self.low}..{self.high}.")

    def holding(self, value: int | float) -> Range:
        """The same range, as much wider as it must be to hold a value."""
        return replace(
            self, low=min(self.low, value), high=max(self.high, value), log=self.log and min(self.low, value) > 0
        )
