"""Layers of two networks that are compared: pairs of addresses, and the loss of each pair."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from limbeck.errors import ArgumentError
from limbeck.losses import Objective, Sum

Layers = str | Sequence[str]
"""The name of a layer, or of several."""


def list_layers(argument: str, layers: Layers) -> tuple[str, ...]:
    """The names of one or several layers.

    Raises:
        ArgumentError: If there is none, or one is no text.

    Example:
        >>> list_layers("at", "layer1"), list_layers("at", ["layer1", "layer2"])
        (('layer1',), ('layer1', 'layer2'))
    """
    names = (layers,) if isinstance(layers, str) else tuple(layers) if isinstance(layers, Sequence) else ()
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ArgumentError(
            f"{argument} is the name of a layer or a list of names, such as layer1 or [layer1, layer2]; got "
            f"{layers!r}. List the names of a model: [name for name, _ in model.named_modules()].",
            argument=argument,
        )
    return names


def pair_layers(at: Layers, student_at: Layers) -> list[tuple[str, str]]:
    """The pairs (layer of the student, layer of the teacher), in order.

    Raises:
        ArgumentError: If one has more names than the other, or a name is no text.

    Example:
        >>> pair_layers(["layer1", "layer3"], ["layer1", "layer2"])
        [('layer1', 'layer1'), ('layer2', 'layer3')]
    """
    theirs, ours = list_layers("at", at), list_layers("student_at", student_at)
    if len(ours) != len(theirs):
        raise ArgumentError(
            f"at has {len(theirs)} layers and student_at {len(ours)}; name a layer of the student for each layer of "
            "the teacher.",
            argument="student_at",
        )
    return list(zip(ours, theirs, strict=True))


def add_weighted(terms: Iterable[Objective], *, weights: str) -> Objective:
    """The sum of losses that have their weights; those with the weight 0 have been left out before.

    Raises:
        ArgumentError: If all have been left out.
    """
    kept = list(terms)
    if not kept:
        raise ArgumentError(
            f"{weights} are all 0, so nothing would be learned; give one of them a number above 0.",
            argument=weights.partition(",")[0].partition(" ")[0],
        )
    return sum(kept[1:], start=kept[0])


def add_losses(losses: Iterable[Objective]) -> Objective:
    """The sum of one or several losses, each with weight 1."""
    first, *others = losses
    return Sum(first, *others) if others else first
