"""Copies of objectives with their heads, so that a run trains heads of its own."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from types import CellType, FunctionType, MethodType
from typing import Any, cast

from torch import Tensor, nn

from limbeck.losses.bound_kernel import BoundKernel
from limbeck.losses.memory import find_modules
from limbeck.losses.objective import LossTerm, Objective, Scaled, Sum


def copy_objective(objective: Objective, memo: dict[int, Any]) -> Objective:
    """Copy an objective with its heads, for one run: what a run trains is not what the user wrote.

    Parameters, buffers and modules are copied. A kernel that refers to a head gets the copy: a method, a closure, a
    partial, a default value, a hyper-parameter, or an object that is called like a function, which is copied for it.
    Other kernels and attributes are shared, and so are the modules that they refer to.

    Args:
        objective: The objective.
        memo: Originals -> copies, as in `copy.deepcopy`. Stages with one memo share the heads that their originals
            share. Parts of models that are heads too stay what they are: begin with `shared_parts`.

    Example:
        >>> from limbeck.functional import Projector, squared_error
        >>> from limbeck.losses import Loss
        >>> loss = Loss(squared_error, head=Projector())
        >>> copied = copy_objective(2.0 * loss, {}).objective
        >>> copied is loss, copied.head is loss.head, copied.kernel is loss.kernel
        (False, False, True)
    """
    if isinstance(objective, Sum):
        return Sum(*(copy_objective(cast(Objective, part), memo) for part in objective.parts))
    if isinstance(objective, Scaled):
        return Scaled(copy_objective(objective.objective, memo), objective.weight)
    if not isinstance(objective, LossTerm):
        return copy.deepcopy(objective, memo)
    if id(objective) not in memo:
        copied = memo[id(objective)] = copy.copy(objective)
        memo.setdefault(id(memo), []).append(objective)  # alive, so that no other object gets its id
        for module in _find_fixed_modules(objective):
            memo.setdefault(id(module), module)
        for kind in ("_parameters", "_buffers", "_modules"):
            own = vars(objective)[kind]
            vars(copied)[kind] = {name: _copy_part(part, memo) for name, part in own.items()}
        for name, value in vars(objective).items():
            if isinstance(value, BoundKernel):
                vars(copied)[name] = _copy_kernel(value, memo)
    return cast(Objective, memo[id(objective)])


def shared_parts(*networks: nn.Module) -> dict[int, Any]:
    """The beginning of a memo for `copy_objective` with which no part of these networks is copied.

    A layer of the student that is a head too is trained as one; one of the teacher must not be trained.

    Example:
        >>> layer, head = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> memo = shared_parts(layer)
        >>> copy.deepcopy(layer, memo) is layer, copy.deepcopy(head, memo) is head
        (True, False)
    """
    parts = (part for one in networks for part in (*one.modules(), *one.parameters(), *one.buffers()))
    return {id(part): part for part in parts}


def _find_fixed_modules(objective: LossTerm) -> list[nn.Module]:
    """The modules that attributes refer to where a copy cannot take their place, such as in a kernel's object."""
    kernels = [value for value in vars(objective).values() if isinstance(value, BoundKernel)]
    reached = [one for kernel in kernels for one in _find_movable([kernel.function, kernel.hyper], set())]
    movable = {id(part) for one in reached for part in one.modules()}
    return [module for module in find_modules(vars(objective)) if id(module) not in movable]


def _copy_part(part: Any, memo: dict[int, Any]) -> Any:
    if isinstance(part, Objective):
        return copy_objective(part, memo)
    if isinstance(part, Tensor) and not part.is_leaf:  # such as a buffer that was computed from a parameter
        part = part.detach()
    return copy.deepcopy(part, memo)


def _copy_kernel(kernel: BoundKernel, memo: dict[int, Any]) -> BoundKernel:
    function, hyper = _replace_modules(kernel.function, memo), _replace_modules(kernel.hyper, memo)
    if function is kernel.function and hyper is kernel.hyper:
        return kernel
    copied = copy.copy(kernel)
    copied.function, copied.hyper = function, hyper
    return copied


def _find_movable(value: Any, seen: set[int]) -> Iterator[nn.Module]:
    """The modules that `_replace_modules` replaces."""
    if isinstance(value, nn.Module):
        yield value
        return
    parts = _parts(value)
    if parts and id(value) not in seen:
        seen.add(id(value))
        for part in parts.values():
            yield from _find_movable(part, seen)


def _parts(value: Any) -> dict[Any, Any]:
    """What a function, an object that is called like one, or a container refers to, by place; empty for others."""
    if isinstance(value, MethodType):
        return {"self": value.__self__}
    if isinstance(value, FunctionType):
        cells = {number: _read_cell(cell) for number, cell in enumerate(value.__closure__ or ())}
        defaults = {("default", number): one for number, one in enumerate(value.__defaults__ or ())}
        return {**cells, **defaults, **(value.__kwdefaults__ or {})}
    if isinstance(value, functools.partial):
        return {"function": value.func, "arguments": value.args, "keywords": value.keywords}
    if type(value) in (list, tuple):
        return dict(enumerate(value))
    if type(value) is dict:
        return dict(value)
    is_object = callable(value) and not isinstance(value, type) and not isinstance(value, nn.Module)
    return dict(vars(value)) if is_object and hasattr(value, "__dict__") else {}


def _replace_modules(value: Any, memo: dict[int, Any], done: dict[int, Any] | None = None) -> Any:
    """A module's copy, or a function, object or container that uses the copies; the value itself if there are none."""
    if isinstance(value, nn.Module):
        return memo.get(id(value), value)
    done = {} if done is None else done
    if id(value) in done:
        return done[id(value)]
    parts = _parts(value)
    if not parts:
        return value
    done[id(value)] = value  # for an object that refers to itself
    replaced = {place: _replace_modules(part, memo, done) for place, part in parts.items()}
    if any(replaced[place] is not part for place, part in parts.items()):
        done[id(value)] = _rebuilt(value, replaced)
    return done[id(value)]


def _rebuilt(value: Any, parts: dict[Any, Any]) -> Any:
    """The same function, object or container with other parts."""
    if isinstance(value, MethodType):
        return MethodType(value.__func__, parts["self"])
    if isinstance(value, FunctionType):
        return _rebuilt_function(value, parts)
    if isinstance(value, functools.partial):
        return functools.partial(parts["function"], *parts["arguments"], **parts["keywords"])
    if type(value) in (list, tuple):
        return type(value)(parts.values())
    if type(value) is dict:
        return parts
    copied = copy.copy(value)
    vars(copied).update({name: copied if part is value else part for name, part in parts.items()})
    return copied


def _rebuilt_function(function: FunctionType, parts: dict[Any, Any]) -> FunctionType:
    cells = tuple(
        cell if parts[number] is _read_cell(cell) else CellType(parts[number])
        for number, cell in enumerate(function.__closure__ or ())
    )
    defaults = tuple(parts["default", number] for number in range(len(function.__defaults__ or ())))
    copied = FunctionType(
        function.__code__, function.__globals__, function.__name__, defaults or None, cells or None
    )  # fmt: skip
    copied.__kwdefaults__ = {name: parts[name] for name in function.__kwdefaults__ or {}} or None
    functools.update_wrapper(copied, function)
    return copied


def _read_cell(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # of a variable that has no value yet
        return None
