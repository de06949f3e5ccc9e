"""The check that a teacher has its classes in the student's order, where both say what they call them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from limbeck.errors import LimbeckError
from limbeck.models.class_names import class_names_of, first_moved
from limbeck.recipe import Stage
from limbeck.signal import LOGITS


def check_class_order(stage: Stage, student: nn.Module, networks: Iterable[nn.Module]) -> None:
    """Refuse a teacher whose ``id2label`` names a class that the student has under another number.

    Nothing is said where no loss compares the logits of the two, or one of them does not name its classes.

    Raises:
        LimbeckError: With the line that gives the student the teacher's order.
    """
    compared = any(
        LOGITS in leaf.reads.student and LOGITS in leaf.reads.teacher and getattr(leaf, "head", None) is None
        for leaf, _ in stage.objective.leaves()
    )
    ours = class_names_of(student) if compared else None
    for network in networks if ours is not None else ():
        theirs = class_names_of(network)
        moved = first_moved(ours, theirs) if ours and theirs and len(ours) == len(theirs) else None
        if moved is not None:
            place, mine, its = moved
            raise LimbeckError(
                f"Class {place} is {mine!r} to the model {stage.trains!r} and {its!r} to its teacher: they have the "
                "classes in different orders, so the student would learn the wrong ones. If its head is new, "
                f"type limbeck.models.name_classes(student, {list(theirs or ())[:6]}) and give labels in that order; "
                "if it has learnt, reorder the rows of one head's weights."
            )
