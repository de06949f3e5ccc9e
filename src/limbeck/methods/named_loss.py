"""The loss between student and teacher that a method's setting names: one of limbeck's, or ``my.py:function``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from limbeck import functional
from limbeck.errors import LimbeckError, unknown
from limbeck.models import UserFile
from limbeck.objective import Loss

_SIDES = {"student", "teacher"}


def named_loss(name: str, *, temperature: float, classes: int = -1) -> Loss:
    """The loss that a name stands for, at this temperature where it has one.

    Args:
        name: A function of `limbeck.functional` that compares the student with the teacher (``kl_divergence``,
            ``reverse_kl``, ``total_variation``, ...), or ``my.py:function``, a function declared with `kernel`.
        temperature: Given to it where it takes a temperature.
        classes: Which dimension of the logits holds the classes.

    Raises:
        UnknownNameError: If there is no such loss; the nearest is named.
        LimbeckError: If one's own is no kernel, or reads something else than student, teacher and labels.

    Example:
        >>> named_loss("reverse_kl", temperature=2.0)
        Loss(reverse_kl, temperature=2.0)
    """
    kernel = _opened(name)
    takes = inspect.signature(kernel).parameters
    if not set(takes) >= _SIDES:
        raise LimbeckError(f"The loss {name} compares student and teacher; it takes {', '.join(takes)}.")
    hyper: dict[str, Any] = {"temperature": temperature} if "temperature" in takes else {}
    return Loss(kernel, classes=classes, **hyper)


def _opened(name: str) -> Callable[..., Tensor]:
    if (own := UserFile.parse(name)) is not None:
        return own.load()
    known = _known()
    if name not in known:
        raise unknown("loss", name, known, then="Or one of your own: my.py:function.")
    return known[name]


def _known() -> dict[str, Callable[..., Tensor]]:
    """What compares a student with a teacher by itself, and needs no setting but a temperature."""
    known: dict[str, Callable[..., Any]] = {}
    for name in functional.__all__:
        function = getattr(functional, name)
        if getattr(function, "per", None) != "position" or function is functional.state_squared_error:
            continue  # that one compares hidden states, which have no classes
        parameters = inspect.signature(function).parameters.values()
        needed = {p.name for p in parameters if p.default is p.empty}
        if _SIDES <= needed <= {*_SIDES, "temperature"}:
            known[name] = function
    return known
