"""Checks of the arguments of methods against the types of their parameters."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from limbeck.errors import ArgumentError
from limbeck.tasks import Task

P = ParamSpec("P")
R = TypeVar("R")

_WORDS: dict[Any, str] = {
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    str: "text",
    Sequence[str]: "a list of texts",
    Task: "a task",
    NoneType: "None",
}
"""The types that are checked, in words. Parameters with any other type are checked by their method."""


def check_type(name: str, kind: Any, value: Any) -> None:
    """Check that an argument has the type of its parameter.

    A whole number is also a number, and true and false are neither. The address of a layer, the argument ``at`` or one
    whose name ends with ``_at``, is not empty. Types other than numbers, texts, lists of texts, tasks, true and false
    are not checked.

    Args:
        name: The name of the parameter.
        kind: Its annotation.
        value: The argument.

    Raises:
        ArgumentError: If it has another type.

    Example:
        >>> check_type("weight", float, 2)
        >>> check_type("labels", bool, "no")
        Traceback (most recent call last):
        ...
        limbeck.errors.ArgumentError: labels is true or false; got 'no'.
    """
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if not all(one in _WORDS for one in kinds):
        return
    is_empty_address = (name == "at" or name.endswith("_at")) and value is not None and not value
    if is_empty_address or not any(_has_type(one, value) for one in kinds):
        words = " or ".join(_WORDS[one] for one in kinds)
        empty = " that is not empty" if is_empty_address else ""
        raise ArgumentError(f"{name} is {words}{empty}; got {value!r}.", argument=name)


def _has_type(kind: Any, value: Any) -> bool:
    if kind is bool or not isinstance(value, bool):
        if kind in (float, int):  # NumPy's numbers are also of these kinds
            return isinstance(value, Real if kind is float else Integral)
        if kind == Sequence[str]:
            return isinstance(value, Sequence) and all(isinstance(one, str) for one in value)
        return isinstance(value, kind)
    return False


def validates_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function that checks its arguments with `check_type` before it runs.

    For the function of a method: so ``labels="no"``, which Python takes for true, is an error when the recipe is built.

    Example:
        >>> @validates_arguments
        ... def double(weight: float = 1.0) -> float:
        ...     return 2 * weight
        >>> double(weight="a")
        Traceback (most recent call last):
        ...
        limbeck.errors.ArgumentError: weight is a number; got 'a'.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        hints = get_type_hints(function)
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if name in hints:
                check_type(name, hints[name], value)
        return function(*args, **kwargs)

    return checked
