"""Whether a classifier would be right more often with its classes in another order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_GAIN = 0.15
"""A renaming that makes so much more of the answers right is one of the labels, and no chance."""


def renamed_accuracy(said: Tensor, known: Tensor, classes: int) -> tuple[float, list[int]]:
    """The accuracy (a fraction) under another naming of the classes, and that naming, theirs -> ours.

    The accuracy is that of a naming found on one half of the examples, on the other half: of many classes, the best
    naming of a few answers fits them by luck.

    Args:
        said: The class that was chosen for each example, ``[n]``; a negative number for none.
        known: The true one, ``[n]``.
        classes: How many there are.

    Example:
        >>> renamed_accuracy(torch.tensor([1, 0] * 4), torch.tensor([0, 1] * 4), 2)
        (1.0, [1, 0])
    """
    # Halves of every class, whatever the order in which the examples lie.
    order = known.argsort(stable=True)
    halves = [(said[order][part::2], known[order][part::2]) for part in (0, 1)]
    right = 0
    for (theirs, ours), (asked, truth) in zip(halves, reversed(halves), strict=True):
        there = asked >= 0
        named = torch.tensor(_best_order(theirs, ours, classes))[asked[there]]
        right += int((named == truth[there]).sum())
    return right / max(len(said), 1), _best_order(said, known, classes)


def is_misordered(found: float, renamed: float, known: Tensor, reach: float) -> bool:
    """Whether a renaming mends so much that the labels are numbered differently.

    Args:
        found: The accuracy as it is.
        renamed: Of `renamed_accuracy`.
        known: The true classes: who always says one of them is as right as that one is common, by whatever name.
        reach: What chance alone can reach on so many examples.
    """
    commonest = float(known.bincount().max()) / len(known)
    error = (max(renamed - found, 0.0) / len(known)) ** 0.5  # of a difference of so many answers that turn right
    return renamed > max(reach, commonest) + 0.1 and renamed - found > max(_GAIN, 3 * error)


def misorder_message(order: Sequence[int], names: Sequence[str] | None) -> str:
    """The first classes that are moved, in words."""
    moved = [(theirs, ours) for theirs, ours in enumerate(order) if theirs != ours][:3]
    return ", ".join(
        f"its output {theirs} is class {ours}" + (f", called {names[ours]!r}" if names else "")
        for theirs, ours in moved
    )


def _best_order(said: Tensor, known: Tensor, classes: int) -> list[int]:
    """The naming of the classes under which most answers are right: theirs -> ours."""
    from scipy.optimize import linear_sum_assignment

    there = said >= 0
    met = torch.bincount((said * classes + known)[there], minlength=classes * classes).view(classes, classes)
    ours: list[int] = linear_sum_assignment(met.numpy(), maximize=True)[1].tolist()
    return ours
