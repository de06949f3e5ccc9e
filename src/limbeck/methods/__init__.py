"""Published methods by name."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from limbeck.errors import unknown
from limbeck.methods.card import MethodCall, MethodCard
from limbeck.models import UserFile
from limbeck.recipe import Recipe

__all__ = ["MethodCall", "MethodCard", "make", "method", "names"]

# Each is a file of this folder with a CARD and a function of the same name; nothing is imported until it is asked for.
_NAMES = (
    "supervised",
    "label_smoothing",
    "hinton",
    "function_matching",
    "specialists",
    "logit_matching",
    "fitnets",
    "born_again",
    "mutual",
    "mean_teacher",
    "privileged",
)


def names() -> tuple[str, ...]:
    """The methods there are, controls first.

    Example:
        >>> "hinton" in names()
        True
    """
    return _NAMES


def method(name: str) -> MethodCall:
    """One method by name: its card, its function, and what that takes.

    ``my.py:pearson`` is a method of your own: a function in a file that returns a `Recipe`, with a ``CARD`` beside it
    if there is one. The file is run.

    Raises:
        UnknownNameError: If there is no such method; the nearest is named.

    Example:
        >>> method("hinton").card.defaults["temperature"]
        4.0
    """
    if (own := UserFile.parse(name)) is not None:
        function = own.load()
        card = getattr(function, "__globals__", {}).get("CARD")
        return MethodCall.of(
            function, card if isinstance(card, MethodCard) else MethodCard.unpublished(own.function, function.__doc__)
        )
    if name not in _NAMES:
        raise unknown("method", name, _NAMES, then="Or one of your own: my.py:function.")
    file = import_module(f"limbeck.methods.{name}")
    return MethodCall.of(getattr(file, name), file.CARD)


def make(name: str, /, **arguments: Any) -> Recipe:
    """The recipe of one method, from arguments by name; what the command line builds.

    Args:
        name: One of `names()`.
        **arguments: ``teacher``, for a method that has one; its hyper-parameters; ``epochs``.

    Raises:
        UnknownNameError: If there is no such method, or it takes no such argument; the nearest is named.
        LimbeckError: If an argument is missing, of another type, or out of range.

    Example:
        >>> from torch import nn
        >>> [stage.name for stage in make("hinton", teacher=nn.Linear(4, 3), temperature=2).stages()]
        ['hinton']
    """
    return method(name)(**arguments)
