"""Which groups of classes can specialists have?"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from limbeck.errors import LimbeckError, unknown

Groups = tuple[tuple[int, ...], ...]
"""The special classes of each specialist."""


def checked_groups(groups: Any, *, classes: int | None = None, class_names: Sequence[str] | None = None) -> Groups:
    """Groups of classes as a person writes them -> class indices, once they are known to make sense.

    Args:
        groups: A sequence for each specialist, of class indices or, with `class_names`, names. Groups may overlap.
        classes: How many classes there are, where that is known.
        class_names: The name of each class.

    Raises:
        LimbeckError: If there is no group, or one is of a single class, of all classes, holds a class twice or one that
            there is not.
        UnknownNameError: If a name is no class's; the nearest is named.

    Example:
        >>> checked_groups([["cat", "dog"], [0, 2]], class_names=["cat", "dog", "frog"])
        ((0, 1), (0, 2))
    """
    names = None if class_names is None else list(class_names)
    count = classes if classes is not None else len(names) if names else None
    if isinstance(groups, (str, bytes)) or not isinstance(groups, Sequence) or not len(groups):
        raise LimbeckError(f"groups is a list of lists of classes, one for each specialist; got {groups!r}.")
    return tuple(_checked(number, group, count, names) for number, group in enumerate(groups, 1))


def special_classes(groups: Groups, classes: int) -> Bool[Tensor, "specialists classes"]:
    """True where a class is one of a specialist's own; its columns' sums are how many specialists know each class.

    Example:
        >>> special_classes(((0, 1), (1, 2)), 4).sum(0).tolist()
        [1, 2, 1, 0]
    """
    special = torch.zeros(len(groups), classes, dtype=torch.bool)
    for number, group in enumerate(groups):
        special[number, list(group)] = True
    return special


def _checked(number: int, group: Any, classes: int | None, names: list[str] | None) -> tuple[int, ...]:
    if isinstance(group, (str, bytes)) or not isinstance(group, Sequence):
        raise LimbeckError(f"Group {number} is a list of classes, such as [3, 5, 8]; got {group!r}.")
    found = tuple(_class_index(number, one, names) for one in group)
    if len(found) < 2:
        raise LimbeckError(
            f"Group {number} is {list(group)}: a specialist tells at least two classes apart; add one, or leave it out."
        )
    twice = [one for one in found if found.count(one) > 1]
    if twice:
        raise LimbeckError(f"Group {number} holds class {twice[0]} twice; name each once.")
    wrong = [one for one in found if one < 0 or (classes is not None and one >= classes)]
    if wrong:
        last = "" if classes is None else f" to {classes - 1}"
        raise LimbeckError(f"Group {number} holds class {wrong[0]}; classes run from 0{last}.")
    if classes is not None and len(found) >= classes:
        raise LimbeckError(f"Group {number} holds all {classes} classes, so that none is left for its dustbin.")
    return found


def _class_index(number: int, given: Any, names: list[str] | None) -> int:
    if isinstance(given, str):
        if names is None:
            raise LimbeckError(
                f"Group {number} holds the name {given!r}, and the data name no classes; give its index."
            )
        if given not in names:
            raise unknown("class", given, names)
        return names.index(given)
    try:
        found = None if isinstance(given, bool) else operator.index(given)
    except TypeError:  # also of tensors that are no single whole number
        found = None
    if found is None:
        raise LimbeckError(f"Group {number} holds {given!r}; a class is a whole number from 0, or a name.")
    return found
