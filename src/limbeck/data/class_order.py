"""The order of named classes: numbers as numbers, names sorted, or as given."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from limbeck.errors import DataError, nearest


def sorted_classes(names: Iterable[str]) -> tuple[str, ...]:
    """The names of classes in the order of their numbers: as numbers if all are numbers, else as texts.

    Example:
        >>> sorted_classes(["10", "2", "1"]), sorted_classes(["10", "2", "b"])
        (('1', '2', '10'), ('10', '2', 'b'))
    """
    found = sorted(set(names))
    return tuple(sorted(found, key=_number) if all(math.isfinite(_number(name)) for name in found) else found)


def order_classes(found: tuple[str, ...], wanted: Sequence[str], *, who: str) -> tuple[str, ...]:
    """The classes in the order that somebody wants, if that is an order of all of them.

    Args:
        found: The classes of the data.
        wanted: The order; empty leaves `found` as it is. It may name classes that the data lack.
        who: Begins the sentence where it does not fit.

    Raises:
        DataError: If a class has no place in the order, or one stands in it twice.
    """
    if not wanted:
        return found
    lacking = [name for name in found if name not in wanted]
    if lacking:
        near = nearest(lacking[0], wanted)
        meant = f" Did you mean that by {near!r}?" if near else ""
        raise DataError(
            f"{who}: class_names lacks the class {lacking[0]!r}.{meant} The data have: {', '.join(found[:12])}."
        )
    if len(set(wanted)) != len(wanted):
        raise DataError(f"class_names names a class twice: {', '.join(wanted[:12])}.")
    return tuple(wanted)


def _number(name: str) -> float:
    try:
        return float(name)
    except ValueError:
        return math.nan
