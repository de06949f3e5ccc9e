"""Detection of a classifier whose classes have another order than the labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_GAIN = 0.15
"""The gain of accuracy from which another class order is reported."""


def renamed_accuracy(predicted: Tensor, labels: Tensor, classes: int) -> tuple[float, list[int]]:
    """Compute the best accuracy (a fraction) over class orders, and that order, theirs -> ours.

    The order is found on one half of the examples and the accuracy is computed on the other half, because with many
    classes the best order for few examples overfits.

    Args:
        predicted: The predicted class of each example, ``[n]``; negative for none.
        labels: The true classes, ``[n]``.
        classes: The number of classes.

    Example:
        >>> renamed_accuracy(torch.tensor([1, 0] * 4), torch.tensor([0, 1] * 4), 2)
        (1.0, [1, 0])
    """
    # Both halves have examples of every class, whatever the order of the examples.
    order = labels.argsort(stable=True)
    halves = [(predicted[order][part::2], labels[order][part::2]) for part in (0, 1)]
    right = 0
    for (theirs, ours), (predictions, truth) in zip(halves, reversed(halves), strict=True):
        there = predictions >= 0
        named = torch.tensor(_best_order(theirs, ours, classes))[predictions[there]]
        right += int((named == truth[there]).sum())
    return right / max(len(predicted), 1), _best_order(predicted, labels, classes)


def is_misordered(accuracy: float, renamed: float, labels: Tensor, reach: float) -> bool:
    """Whether another class order improves the accuracy so much that the labels must be numbered differently.

    Args:
        accuracy: The accuracy in the given order.
        renamed: The result of `renamed_accuracy`.
        labels: The true classes. A constant prediction reaches the frequency of the most common class in any order.
        reach: The accuracy that chance can reach on this number of examples.
    """
    commonest = float(labels.bincount().max()) / len(labels)
    error = (max(renamed - accuracy, 0.0) / len(labels)) ** 0.5  # standard error of the gain
    return renamed > max(reach, commonest) + 0.1 and renamed - accuracy > max(_GAIN, 3 * error)


def misorder_message(order: Sequence[int], names: Sequence[str] | None) -> str:
    """Describe the first classes that differ."""
    moved = [(theirs, ours) for theirs, ours in enumerate(order) if theirs != ours][:3]
    return ", ".join(
        f"its output {theirs} is class {ours}" + (f", called {names[ours]!r}" if names else "")
        for theirs, ours in moved
    )


def _best_order(predicted: Tensor, labels: Tensor, classes: int) -> list[int]:
    """Find the class order with the most correct predictions: theirs -> ours."""
    from scipy.optimize import linear_sum_assignment

    there = predicted >= 0
    met = torch.bincount((predicted * classes + labels)[there], minlength=classes * classes).view(classes, classes)
    ours: list[int] = linear_sum_assignment(met.numpy(), maximize=True)[1].tolist()
    return ours
