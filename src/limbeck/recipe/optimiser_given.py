"""Is what was given as an optimiser one, and what is to be typed if not?"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch

from limbeck.errors import LimbeckError
from limbeck.recipe.optimiser import Optimiser

_NAMED = ("adam", "adamw", "sgd", "rmsprop")


def check_optimiser(given: Any) -> None:
    """Refuse what is no `Optimiser`; None stands for the run's.

    Raises:
        LimbeckError: With the line that makes one of it.

    Example:
        >>> check_optimiser("adam")
        Traceback (most recent call last):
        ...
        limbeck.errors.LimbeckError: optimiser is 'adam', a name; type optimiser=Optimiser('adam', lr=0.001).
    """
    if given is None or isinstance(given, Optimiser):
        return
    kind = type(given).__name__
    if isinstance(given, str):
        raise LimbeckError(f"optimiser is {given!r}, a name; type optimiser=Optimiser({given!r}, lr=0.001).")
    if isinstance(given, torch.optim.Optimizer):
        lr = float(given.param_groups[0].get("lr", 0.001))
        named = f"optimiser=Optimiser({kind.lower()!r}, lr={lr:g}), or " if kind.lower() in _NAMED else ""
        raise LimbeckError(
            f"optimiser is a torch.optim.{kind} that is made already; a stage makes its own, because heads learn "
            f"beside the student. Type {named}"
            f"optimiser=Optimiser(lambda parameters: torch.optim.{kind}(parameters, ...))."
        )
    if callable(given):
        name = getattr(given, "__name__", kind)
        raise LimbeckError(f"optimiser is a function, {name}; type optimiser=Optimiser({name}).")
    raise LimbeckError(f"optimiser is a {kind}; type optimiser=Optimiser('adamw', lr=0.001).")


def optimiser_hint(name: str) -> str:
    """What to type for an argument that an `Optimiser` takes and a run does not; nothing for any other."""
    known = [field.name for field in fields(Optimiser) if field.name != "name"]
    return f"Type optimiser=Optimiser({name}=...)." if name in known else ""
