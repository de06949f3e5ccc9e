"""Checks the names of the arguments that a network or a function of a user is built with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from limbeck.errors import ArgumentError, UnknownArgumentError, nearest

_KEYWORD = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def accepted_arguments(function: Callable[..., Any], *, without: Collection[str] = ()) -> dict[str, inspect.Parameter]:
    """The arguments that `function` takes by name, leaving out those in `without`."""
    parameters = inspect.signature(function).parameters
    return {n: p for n, p in parameters.items() if p.kind in _KEYWORD and n not in without}


def check_arguments(
    who: str, function: Callable[..., Any], arguments: Mapping[str, Any], *, without: Collection[str] = ()
) -> dict[str, Any]:
    """Check that `function` accepts the arguments, and that no required one is missing.

    Args:
        who: The name of the function in errors.
        function: The function to call with `arguments`.
        arguments: Name to value.
        without: Names of arguments that the caller fills in.

    Returns:
        The arguments, without those that are None and not accepted: in a job, null leaves an argument out.

    Raises:
        UnknownArgumentError: If it does not accept one; it names the nearest argument and all that are accepted.
        ArgumentError: If one is missing.
    """
    accepted = accepted_arguments(function, without=without)
    parameters = inspect.signature(function).parameters.values()
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        arguments = {name: value for name, value in arguments.items() if value is not None or name in accepted}
        for name in arguments:
            if name not in accepted:
                near = nearest(name, accepted)
                hint = f"Did you mean {near!r}? " if near else ""
                message = (
                    f"{who} takes no argument {name!r}. {hint}To leave it out of a job, write {name}: null. "
                    f"It takes: {_listed(accepted)}."
                )
                example = _example(accepted[near]) if near else "..."
                raise UnknownArgumentError(message, name=name, argument=near or "", example=example)
    names = [n for n, p in accepted.items() if p.default is p.empty and n not in arguments]
    if names:
        missing = ", ".join(f"{n}={_example(accepted[n])}" for n in names)
        message = f"{who} needs {missing}. It takes: {_listed(accepted)}."
        raise ArgumentError(message, argument=names[0], example=_example(accepted[names[0]]))
    return dict(arguments)


def _listed(accepted: Mapping[str, inspect.Parameter]) -> str:
    listed = (n if p.default is p.empty else f"{n}={p.default!r}" for n, p in accepted.items())
    return ", ".join(listed) or "nothing"


def _example(parameter: inspect.Parameter) -> str:
    """An example value of a parameter, as a user types it."""
    return "[64,32]" if "Sequence" in str(parameter.annotation) or "list" in str(parameter.annotation) else "..."
