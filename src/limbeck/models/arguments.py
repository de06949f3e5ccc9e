"""Checks the arguments of networks and of functions that build networks."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from limbeck.errors import ArgumentError, nearest


class ModelSpec(NamedTuple):
    """The name of a reference network and the arguments it was built with, all of them JSON values.

    Attributes:
        name: One of `reference_names()`.
        arguments: What `build` was called with.
    """

    name: str
    arguments: dict[str, Any]


_MOST_LAYERS = 1_000

"""An upper bound: a network with more layers takes seconds to build, and cannot be trained."""

_KEYWORD = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def accepted_arguments(function: Callable[..., Any], *, without: Collection[str] = ()) -> dict[str, inspect.Parameter]:
    """The arguments that `function` takes by name, leaving out those in `without`."""
    parameters = inspect.signature(function).parameters
    return {n: p for n, p in parameters.items() if p.kind in _KEYWORD and n not in without}


def check_arguments(
    who: str, function: Callable[..., Any], arguments: Mapping[str, Any], *, without: Collection[str] = ()
) -> None:
    """Check that `function` accepts the arguments, and that no required one is missing.

    Args:
        who: The name of the function in errors.
        function: The function to call with `arguments`.
        arguments: Name to value.
        without: Names of arguments that the caller fills in.

    Raises:
        ArgumentError: If not; it names the nearest argument and all that are accepted.
    """
    accepted = accepted_arguments(function, without=without)
    parameters = inspect.signature(function).parameters.values()
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        for name in arguments:
            if name not in accepted:
                near = nearest(name, accepted)
                hint = f" Did you mean {near!r}?" if near else ""
                message = f"{who} takes no argument {name!r}.{hint} It takes: {_listed(accepted)}."
                raise ArgumentError(message, argument=near or "", example=_example(accepted[near]) if near else "...")
    names = [n for n, p in accepted.items() if p.default is p.empty and n not in arguments]
    if names:
        missing = ", ".join(f"{n}={_example(accepted[n])}" for n in names)
        message = f"{who} needs {missing}. It takes: {_listed(accepted)}."
        raise ArgumentError(message, argument=names[0], example=_example(accepted[names[0]]))


def check_positive(who: str, **values: int) -> None:
    """Refuse a value that is not an integer of at least 1.

    Raises:
        ArgumentError: If there is one; it names the argument and its value.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ArgumentError(f"{who} needs {name} to be an integer of at least 1; got {value!r}.", argument=name)


def check_widths(who: str, name: str, widths: Sequence[int]) -> list[int]:
    """`widths` as a list, each an integer of at least 1.

    Raises:
        ArgumentError: If there is one; it names the argument and its value.
    """
    if isinstance(widths, str) or not isinstance(widths, Sequence):
        message = f"{who} needs {name} to be a list of integers, such as [64, 32]; got {widths!r}."
        raise ArgumentError(message, argument=name, example="[64,32]")
    if len(widths) > _MOST_LAYERS:
        raise ArgumentError(f"{who} takes at most {_MOST_LAYERS:,} of {name}; got {len(widths):,}.", argument=name)
    for width in widths:
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            message = f"{who} needs each of {name} to be an integer of at least 1; got {width!r}."
            raise ArgumentError(message, argument=name, example="[64,32]")
    return list(widths)


def check_memory(who: str, numbers: int) -> None:
    """Refuse a network whose weights alone would not fit into this machine's memory, before any is taken.

    On the meta device there is no check, as networks there take no memory.

    Args:
        who: The name of the network in errors.
        numbers: The approximate number of weights; each takes four bytes.

    Raises:
        ArgumentError: If it does not; it names both sizes.
    """
    if torch.get_default_device().type == "meta":
        return
    room = _memory()
    if 4 * numbers > room:
        raise ArgumentError(
            f"{who} of these sizes has {numbers:,} weights, which take {4 * numbers / 1e9:,.0f} GB; this machine has "
            f"{room / 1e9:,.0f} GB of memory. Make it smaller.",
            argument="",
        )


def _memory() -> int:
    """Bytes of this machine's memory; 2^40 where the system does not report it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**40


def check_dropout(who: str, **rates: float) -> None:
    """Refuse a dropout rate outside [0, 1).

    Raises:
        ArgumentError: If there is one; it names the argument and its value.
    """
    for name, rate in rates.items():
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0.0 <= rate < 1.0:
            message = f"{who} needs {name} to be a fraction from 0 to below 1; got {rate!r}."
            raise ArgumentError(message, argument=name, example="0.1")


def _listed(accepted: Mapping[str, inspect.Parameter]) -> str:
    listed = (n if p.default is p.empty else f"{n}={p.default!r}" for n, p in accepted.items())
    return ", ".join(listed) or "nothing"


def _example(parameter: inspect.Parameter) -> str:
    """An example value of a parameter, as a user types it."""
    return "[64,32]" if "Sequence" in str(parameter.annotation) or "list" in str(parameter.annotation) else "..."
