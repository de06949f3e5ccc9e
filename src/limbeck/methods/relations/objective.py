"""The objective of methods of relations: labels, soft targets if wanted, and the relations."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.errors import ArgumentError
from limbeck.functional import check_hyper
from limbeck.losses import Objective
from limbeck.methods.support import check_weight
from limbeck.tasks import Task

_TEMPERATURE = 4.0  # that of `hinton`


def add_targets(
    relations: Objective, task: Task, *, labels: bool, soft_weight: float, temperature: float | None
) -> Objective:
    """Add the loss of the labels and that of the soft targets to a loss of relations.

    Args:
        relations: The loss of the relations, with its weight.
        task: What the targets are.
        labels: Whether to add the loss of the labels, with the weight 1.
        soft_weight: The weight of the soft targets; 0 leaves them out.
        temperature: Their temperature; None for 4.

    Raises:
        LimbeckError: If the weight is negative, the temperature is not above 0, or there is one without a weight.

    Example:
        >>> from limbeck.functional import squared_error
        >>> from limbeck.losses import Loss
        >>> from limbeck.tasks import get_task
        >>> hints = 2.0 * Loss(squared_error, student="layer1", teacher="layer1")
        >>> add_targets(hints, get_task("classification"), labels=True, soft_weight=0.0, temperature=None)
        Loss(cross_entropy) + 2.0 * Loss(squared_error, student='layer1', teacher='layer1')
    """
    check_weight(soft_weight=soft_weight)
    if temperature is not None:
        check_hyper(temperature=temperature)
        if not soft_weight:
            raise ArgumentError(
                f"temperature={temperature:g} is that of the soft targets, and soft_weight=0 leaves them out. Type "
                "soft_weight=0.9 too, or leave temperature out.",
                argument="temperature",
            )
    parts: list[Objective] = [task.supervised_loss()] if labels else []
    if soft_weight:
        soft = task.distillation_loss(temperature=_TEMPERATURE if temperature is None else temperature)
        parts.append(soft_weight * soft)
    return sum_objectives([*parts, relations])


def sum_objectives(parts: Sequence[Objective]) -> Objective:
    """Add objectives, of which there is at least one.

    Example:
        >>> from limbeck.functional import cross_entropy
        >>> from limbeck.losses import Loss
        >>> sum_objectives([Loss(cross_entropy)])
        Loss(cross_entropy)
    """
    return sum(parts[1:], parts[0])
