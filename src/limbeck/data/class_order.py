"""Order of class names: by number, alphabetical, or as the user sets it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from limbeck.errors import DataError, nearest


def sorted_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Sort class names: by value if all are numbers, else alphabetically.

    Example:
        >>> sorted_classes(["10", "2", "1"]), sorted_classes(["10", "2", "b"])
        (('1', '2', '10'), ('10', '2', 'b'))
    """
    unique = sorted(set(names))
    return tuple(sorted(unique, key=_number) if all(math.isfinite(_number(name)) for name in unique) else unique)


def order_classes(classes: tuple[str, ...], order: Sequence[str], *, who: str) -> tuple[str, ...]:
    """Return the classes in the order that the user set.

    Args:
        classes: The classes of the data.
        order: The order; empty leaves `classes` as they are. It may contain classes that the data lack.
        who: Start of the error message.

    Raises:
        DataError: If `order` lacks a class or contains one twice.
    """
    if not order:
        return classes
    lacking = [name for name in classes if name not in order]
    if lacking:
        near = nearest(lacking[0], order)
        suggestion = f" It contains {near!r}: is that the same class?" if near else ""
        raise DataError(
            f"{who}: class_names lacks the class {lacking[0]!r}.{suggestion} The data have: {', '.join(classes[:12])}."
        )
    if len(set(order)) != len(order):
        raise DataError(f"class_names contains a class twice: {', '.join(order[:12])}.")
    return tuple(order)


def _number(name: str) -> float:
    try:
        return float(name)
    except ValueError:
        return math.nan
