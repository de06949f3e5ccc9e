"""Whether a classifier would be right more often with its classes in another order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_GAIN = 0.15
"""A renaming that makes so much more of the answers right is one of the labels, and no chance."""


def renamed_accuracy(predicted: Tensor, labels: Tensor, classes: int) -> tuple[float, list[int]]:
    """The accuracy (a fraction) under another naming of the classes, and that naming, theirs -> ours.

    The accuracy is that of a naming found on one half of the examples, on the other half: of many classes, the best
    naming of a few answers fits them by luck.

    Args:
        predicted: The class that was chosen for each example, ``[n]``; a negative number for none.
        labels: The true one, ``[n]``.
        classes: How many there are.

    Example:
        >>> renamed_accuracy(torch.tensor([1, 0] * 4), torch.tensor([0, 1] * 4), 2)
        (1.0, [1, 0])
    """
    # Halves of every class, whatever the order in which the examples lie.
    order = labels.argsort(stable=True)
    halves = [(predicted[order][part::2], labels[order][part::2]) for part in (0, 1)]
    right = 0
    for (theirs, ours), (predictions, truth) in zip(halves, reversed(halves), strict=True):
        there = predictions >= 0
        named = torch.tensor(_best_order(theirs, ours, classes))[predictions[there]]
        right += int((named == truth[there]).sum())
    return right / max(len(predicted), 1), _best_order(predicted, labels, classes)


def is_misordered(accuracy: float, renamed: float, labels: Tensor, reach: float) -> bool:
    """Whether a renaming mends so much that the labels are numbered differently.

    Args:
        accuracy: The accuracy as it is.
        renamed: Of `renamed_accuracy`.
        labels: The true classes: who always says one of them is as right as that one is common, by whatever name.
        reach: What chance alone can reach on so many examples.
    """
    commonest = float(labels.bincount().max()) / len(labels)
    error = (max(renamed - accuracy, 0.0) / len(labels)) ** 0.5  # of a difference of so many answers that turn right
    return renamed > max(reach, commonest) + 0.1 and renamed - accuracy > max(_GAIN, 3 * error)


def misorder_message(order: Sequence[int], names: Sequence[str] | None) -> str:
    """The first classes that are moved, in words."""
    moved = [(theirs, ours) for theirs, ours in enumerate(order) if theirs != ours][:3]
    return ", ".join(
        f"its output {theirs} is class {ours}" + (f", called {names[ours]!r}" if names else "")
        for theirs, ours in moved
    )


def _best_order(predicted: Tensor, labels: Tensor, classes: int) -> list[int]:
    """The naming of the classes under which most answers are right: theirs -> ours."""
    from scipy.optimize import linear_sum_assignment

    there = predicted >= 0
    met = torch.bincount((predicted * classes + labels)[there], minlength=classes * classes).view(classes, classes)
    ours: list[int] = linear_sum_assignment(met.numpy(), maximize=True)[1].tolist()
    return ours
