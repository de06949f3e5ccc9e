"""Which values can no method take?"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from limbeck.errors import LimbeckError


def check_share(**values: Any) -> None:
    """Refuse what is no share from 0 to 1.

    Raises:
        LimbeckError: Naming the first that is none.

    Example:
        >>> check_share(weight=1.2)
        Traceback (most recent call last):
        ...
        limbeck.errors.LimbeckError: weight is a number from 0 to 1; got 1.2.
    """
    for name, value in values.items():
        if not (_is_number(value) and 0 <= value <= 1):
            raise LimbeckError(f"{name} is a number from 0 to 1; got {value!r}.")


def check_weight(**values: Any) -> None:
    """Refuse what is no finite number of at least 0.

    Raises:
        LimbeckError: Naming the first that is none.
    """
    for name, value in values.items():
        if not (_is_number(value) and value >= 0):
            raise LimbeckError(f"{name} is a finite number of at least 0; got {value!r}.")


def check_count(**values: Any) -> None:
    """Refuse what is no whole number of at least 1.

    Raises:
        LimbeckError: Naming the first that is none.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise LimbeckError(f"{name} is a whole number of at least 1; got {value!r}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
