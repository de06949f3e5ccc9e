"""Copies of objectives with their heads, so that a run trains its own."""

from __future__ import annotations

import copy
from typing import Any, cast

from torch import Tensor, nn

from limbeck.losses.memory import find_modules
from limbeck.losses.objective import LossTerm, Objective, Scaled, Sum


def copy_objective(objective: Objective, memo: dict[int, Any]) -> Objective:
    """Copy an objective with its heads, for one run: what a run trains is not what the user wrote.

    Parameters, buffers and modules are copied; kernels and other attributes are shared. So is a module that a kernel
    refers to, by its closure or as a method of it: the kernel would go on with the original.

    Args:
        objective: The objective.
        memo: Originals -> copies, as in `copy.deepcopy`. Stages with one memo share the heads that their originals
            share.

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
        for module in find_modules(vars(objective)):  # of its kernel
            memo.setdefault(id(module), module)
        for kind in ("_parameters", "_buffers", "_modules"):
            own = vars(objective)[kind]
            vars(copied)[kind] = {name: _copy_part(part, memo) for name, part in own.items()}
    return cast(Objective, memo[id(objective)])


def shared_parts(*networks: nn.Module) -> dict[int, Any]:
    """A memo for `copy_objective`: these networks' modules, parameters and buffers are not copied, also as heads.

    A head that is a layer of a network would lose its tie to it in a copy.
    """
    parts = (part for network in networks for part in (*network.modules(), *network.parameters(), *network.buffers()))
    return {id(part): part for part in parts}


def _copy_part(part: Any, memo: dict[int, Any]) -> Any:
    if isinstance(part, Objective):
        return copy_objective(part, memo)
    if isinstance(part, Tensor) and not part.is_leaf:  # such as a buffer that was computed from a parameter
        part = part.detach()
    return copy.deepcopy(part, memo)
