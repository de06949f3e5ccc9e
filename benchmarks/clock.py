"""Time that one package spends in functions of another."""

from __future__ import annotations

import functools
import importlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any

Parts = Mapping[str, Sequence[str]]
"""Name of a part -> the definitions of its functions: a module with its submodules, ``module:function``, or
``module:Class.method`` with the methods of all subclasses.

A function belongs to the first part that contains it.
"""


@contextmanager
def clocked(
    package: str, parts: Parts, *, clock: Callable[[], float] = time.perf_counter
) -> Iterator[dict[str, float]]:
    """A block that measures the time of every call from a package to these parts, in seconds by part.

    The functions are replaced under the names that the package's loaded modules use, and restored afterwards. A call
    inside a timed call counts for the outer one. Other functions are not replaced, so their speed does not change.

    Args:
        package: The package that makes the calls.
        parts: The parts to time.
        clock: The clock; `time.process_time` counts the processor time of this process alone.
    """
    seconds, depth = dict.fromkeys(parts, 0.0), [0]
    replaced: list[tuple[Any, str, Any]] = []
    for method_part, owner, name in _methods(parts):
        replaced.append((owner, name, vars(owner)[name]))
        setattr(owner, name, _timed(vars(owner)[name], method_part, seconds, depth, clock))
    for module in [one for name, one in sys.modules.items() if (name + ".").startswith(package + ".")]:
        for name, value in list(vars(module).items()):
            part = _part_of(value, module.__name__, parts)
            if part is not None:
                replaced.append((module, name, value))
                setattr(module, name, _timed(value, part, seconds, depth, clock))
    try:
        yield seconds
    finally:
        for module, name, value in replaced:
            setattr(module, name, value)


def _methods(parts: Parts) -> list[tuple[str, type, str]]:
    """Part, class and name of each method, also of the subclasses that have their own."""
    found = []
    for part, places in parts.items():
        for place in places:
            module, _, method = place.partition(":")
            if "." not in method:
                continue
            owner, name = method.split(".")
            kinds = [getattr(importlib.import_module(module), owner)]
            for kind in kinds:  # grows while it is read
                kinds += kind.__subclasses__()
            found += [(part, kind, name) for kind in kinds if name in vars(kind)]
    return found


def _part_of(value: Any, held_by: str, parts: Parts) -> str | None:
    """The part that a module's attribute belongs to; calls inside a part are not replaced."""
    if not isinstance(value, FunctionType):
        return None
    for part, places in parts.items():
        for place in places:
            module, _, function = place.partition(":")
            if function and (value.__module__, value.__name__) == (module, function):
                return part
            if not function and _below(value.__module__, module):
                return None if _below(held_by, module) else part
    return None


def _below(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


def _timed(
    function: Callable[..., Any], part: str, seconds: dict[str, float], depth: list[int], clock: Callable[[], float]
) -> Callable[..., Any]:
    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        depth[0] += 1
        began = clock()
        try:
            return function(*args, **kwargs)
        finally:
            depth[0] -= 1
            if not depth[0]:
                seconds[part] += clock() - began

    return timed
