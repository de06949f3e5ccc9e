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
    unique = sorted(set(names))
    return tuple(sorted(unique, key=_number) if all(math.isfinite(_number(name)) for name in unique) else unique)


def order_classes(classes: tuple[str, ...], order: Sequence[str], *, who: str) -> tuple[str, ...]:
    """The classes in the order that somebody wants, if that is an order of all of them.

    Args:
        classes: The classes of the data.
        order: The order; empty leaves `classes` as it is. It may name classes that the data lack.
        who: Begins the sentence where it does not fit.

    Raises:
        DataError: If a class has no place in the order, or one stands in it twice.
    """
    if not order:
        return classes
    lacking = [name for name in classes if name not in order]
    if lacking:
        near = nearest(lacking[0], order)
        suggestion = f" Did you mean that by {near!r}?" if near else ""
        raise DataError(
            f"{who}: class_names lacks the class {lacking[0]!r}.{suggestion} The data have: {', '.join(classes[:12])}."
        )
    if len(set(order)) != len(order):
        raise DataError(f"class_names names a class twice: {', '.join(order[:12])}.")
    return tuple(order)


def _number(name: str) -> float:
    try:
        return float(name)
    except ValueError:
        return math.nan
