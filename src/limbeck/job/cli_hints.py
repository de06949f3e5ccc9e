"""The flag that mends an error in a job."""

from __future__ import annotations

import re
from collections.abc import Iterable

from limbeck.errors import ArgumentError, LimbeckError, UnknownNameError


def add_flag_hint(error: LimbeckError, place: str, names: Iterable[str] = ()) -> LimbeckError:
    """The same error, said of a part of the job, with the flag to type.

    Args:
        error: What a model, a method or an optimizer said, which knows nothing of jobs.
        place: The part of the job: ``teacher``, ``method``, ``teacher.train``, ...
        names: The keys of that part; the first that the error speaks of is the flag's.

    Example:
        >>> print(add_flag_hint(LimbeckError("lr must be positive; got 0."), "budget", ["epochs", "lr"]))
        budget: lr must be positive; got 0. Type --set budget.lr=...
    """
    kind = UnknownNameError if isinstance(error, UnknownNameError) else LimbeckError
    if isinstance(error, ArgumentError):
        flag = flag_hint(place, error.argument, error.example) if error.argument else "Leave it out."
        return kind(f"{place}: {error} {flag}")
    said = next((name for name in names if re.search(rf"\b{re.escape(name)}\b", str(error))), None)
    return kind(f"{place}: {error}" + (f" {flag_hint(place, said)}" if said else ""))


def flag_hint(place: str, key: str, value: str = "...") -> str:
    """What to type to set a key of a part of the job."""
    return f"Type --set {place}.{key}={value}"
