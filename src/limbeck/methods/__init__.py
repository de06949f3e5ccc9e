"""Published methods by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module, resources
from inspect import unwrap
from types import FunctionType
from typing import Any

from limbeck.errors import LimbeckError, UnknownNameError, unknown_name_error
from limbeck.methods.card import MethodCall, MethodCard, SearchRange
from limbeck.methods.skeleton import FAMILIES, write_skeleton
from limbeck.models import UserFile
from limbeck.recipe import Recipe
from limbeck.tasks import Task, get_task

__all__ = [
    "FAMILIES",
    "MethodCall",
    "MethodCard",
    "SearchRange",
    "check_task",
    "family_of",
    "make",
    "method",
    "names",
    "write_skeleton",
]


def names(task: str | None = None) -> tuple[str, ...]:
    """The names of all published methods, or of those that can learn a task, controls first.

    Raises:
        UnknownNameError: If there is no such task.

    Example:
        >>> "mutual" in names(), "mutual" in names("language_modeling")
        (True, False)
    """
    if task is None:
        return tuple(_modules())
    wanted = get_task(task).name
    return tuple(name for name in _modules() if wanted in method(name).card.tasks)


def family_of(name: str) -> str:
    """The family of a published method, one of `FAMILIES`: the folder of its file.

    Raises:
        UnknownNameError: If there is no such method. The message suggests the nearest name.

    Example:
        >>> family_of("hinton")
        'logits'
    """
    modules = _modules()
    if name not in modules:
        raise unknown_name_error("method", name, modules)
    return modules[name].split(".")[-2]


def check_task(name: str, task: Task) -> None:
    """Check that a method can learn a task.

    Raises:
        LimbeckError: If it cannot; the message says why, and names the methods that can.
    """
    definition = method(name)
    try:
        definition.check_task(task)
    except LimbeckError as error:
        if task.name in definition.card.tasks:
            raise
        raise LimbeckError(f"{error}. They are {', '.join(names(task.name))}.") from None


@cache
def _modules() -> dict[str, str]:
    """Find the module of each method: every file of a family that defines a ``CARD``.

    The files are searched as text. Importing all of them would make `limbeck --help` slow.
    """
    folder = resources.files(__name__)
    families = {item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith(("_", "."))}
    order = [*(name for name in FAMILIES if name in families), *sorted(families.difference(FAMILIES))]
    modules = {}
    for family in order:
        for file in sorted((folder / family).iterdir(), key=lambda item: item.name):
            if file.name.endswith(".py") and "\nCARD = " in file.read_text(encoding="utf-8"):
                name = file.name.removesuffix(".py")
                modules[name] = f"{__name__}.{family}.{name}"
    return modules


def _unknown_method(name: str, modules: Mapping[str, str]) -> UnknownNameError:
    """The error for an unknown method: with those that have the word on their cards, or the nearest name."""
    from limbeck.methods.search import find_methods  # it reads all cards

    hits = find_methods(name)
    then = "Or a function in your own file: my.py:function. `limbeck methods WORD` searches the cards."
    return unknown_name_error("method", name, modules, then=then, meant=hits if len(hits) <= _FEW_HITS else ())


_FEW_HITS = 5
"""So many methods with a word on their cards are suggested for it; more are no help."""


def method(name: str) -> MethodCall:
    """Find one method by name.

    ``my.py:pearson`` is a function in your own file that returns a `Recipe`. A ``CARD`` in that file is used if there
    is one. The file is run.

    Returns:
        The card of the method, its function, and the parameters of the function.

    Raises:
        UnknownNameError: If there is no such method. The message suggests the nearest name.

    Example:
        >>> method("hinton").defaults["temperature"]
        4.0
    """
    if (file := UserFile.parse(name)) is not None:
        function = file.load()
        plain = unwrap(function)  # below decorators such as `validates_arguments`, whose globals are their own
        card = plain.__globals__.get("CARD") if isinstance(plain, FunctionType) else None
        if not isinstance(card, MethodCard):
            card = MethodCard.unpublished(file.function, function.__doc__)
        return MethodCall.of(function, card)
    modules = _modules()
    if name not in modules:
        raise _unknown_method(name, modules)
    module = import_module(modules[name])
    return MethodCall.of(getattr(module, name), module.CARD)


def make(name: str, /, **arguments: Any) -> Recipe:
    """Make the recipe of a method, as the command line does.

    Args:
        name: One of `names()`.
        **arguments: ``teacher`` for a method that needs one, the hyper-parameters of the method, and ``epochs``.

    Raises:
        UnknownNameError: If there is no such method or argument. The message suggests the nearest name.
        LimbeckError: If an argument is missing, has the wrong type, or is out of range.

    Example:
        >>> from torch import nn
        >>> [stage.name for stage in make("hinton", teacher=nn.Linear(4, 3), temperature=2).stages()]
        ['hinton']
    """
    return method(name)(**arguments)
