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

    Parameters, buffers and modules are copied. A kernel that is a method of a head, or has it in its closure, gets the
    copy. Other kernels and attributes are shared, and so are the modules that they refer to, also if they are heads.

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
    movable = {id(part) for kernel in kernels for one in _find_movable(kernel.function) for part in one.modules()}
    return [module for module in find_modules(vars(objective)) if id(module) not in movable]


def _copy_part(part: Any, memo: dict[int, Any]) -> Any:
    if isinstance(part, Objective):
        return copy_objective(part, memo)
    if isinstance(part, Tensor) and not part.is_leaf:  # such as a buffer that was computed from a parameter
        part = part.detach()
    return copy.deepcopy(part, memo)


def _copy_kernel(kernel: BoundKernel, memo: dict[int, Any]) -> BoundKernel:
    function = _replace_modules(kernel.function, memo)
    if function is kernel.function:
        return kernel
    copied = copy.copy(kernel)
    copied.function = function
    return copied


def _find_movable(value: Any) -> Iterator[nn.Module]:
    """The modules that `_replace_modules` replaces."""
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, MethodType):
        yield from _find_movable(value.__self__)
    elif isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            if (content := _read_cell(cell)) is not value:
                yield from _find_movable(content)


def _replace_modules(value: Any, memo: dict[int, Any]) -> Any:
    """A module's copy, or a function that uses the copies; the value itself if there are none."""
    if isinstance(value, nn.Module):
        return memo.get(id(value), value)
    if isinstance(value, MethodType):
        own = _replace_modules(value.__self__, memo)
        return value if own is value.__self__ else MethodType(value.__func__, own)
    if not isinstance(value, FunctionType) or not value.__closure__:
        return value
    cells: list[CellType] = []
    for cell in value.__closure__:
        content = _read_cell(cell)
        replaced = content if content is value else _replace_modules(content, memo)
        cells.append(cell if replaced is content else CellType(replaced))
    if all(one is other for one, other in zip(cells, value.__closure__, strict=True)):
        return value
    copied = FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, tuple(cells))
    copied.__kwdefaults__ = value.__kwdefaults__
    return functools.update_wrapper(copied, value)


def _read_cell(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # of a variable that has no value yet
        return None
