"""What does a run hold that outlives its stages, and how is that taken up again?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from limbeck.engine.checkpoint import to_device
from limbeck.engine.course import Course
from limbeck.engine.probe import first_line
from limbeck.engine.workshop import Workshop
from limbeck.errors import LimbeckError
from limbeck.sources import Source


def holdings(models: Workshop, course: Course, source: Source) -> dict[str, Any]:
    """Models, heads, what functions were asked of, and the position in the data, as they are now."""
    return {
        "exact": source.resumable,
        "source": source.state_dict() if source.resumable else None,
        "models": {name: dict(model.state_dict()) for name, model in models.made.items()},
        "heads": {name: dict(head.state_dict()) for name, head in course.heads().items()},
        "asked": course.asked,
    }


def take_up(
    state: Mapping[str, Any], models: Workshop, course: Course, source: Source, *, device: torch.device, where: Any
) -> dict[nn.Module, Any]:
    """Put models, course and source back to where `holdings` found them; the states of heads wait for their stages.

    Raises:
        LimbeckError: If they are of another run; `where` says whose folder it is.
    """

    def load(states: Mapping[str, Any]) -> None:
        for name, saved in states.items():
            if name in models:
                models[name].load_state_dict(to_device(saved, device))

    try:
        course.take_up(state["asked"], load)
        load(state["models"])
        if state["source"] is not None:
            source.load_state_dict(state["source"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise LimbeckError(
            f"{where} was written by a run of other models or another recipe: {first_line(error)} "
            "Resume with those that it began with."
        ) from error
    # A head whose stage had not begun had no shape yet, and so no state.
    return {head: state["heads"][name] for name, head in course.heads().items() if state["heads"].get(name)}


def no_position(where: Any, what: str) -> LimbeckError:
    """An error for a run that cannot be resumed, for `what` has no position to go on from."""
    return LimbeckError(
        f"{where} cannot be resumed: {what} has no position to go on from. "
        "Use Shuffled(Arrays(inputs, labels), batch_size=...), or a loader with state_dict()."
    )
