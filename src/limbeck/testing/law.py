"""Helpers of the checks: assertions, and states and hooks of modules."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import Batch


def require(condition: bool, broken: str, *, of: str) -> None:
    """Raise an AssertionError if a condition is false.

    Raises:
        AssertionError: If a law is broken; the message names it.
    """
    if not condition:
        raise AssertionError(f"A law of {of} is broken: {broken}.")


def require_close(value: Tensor, expected: Tensor, broken: str, *, of: str, tolerance: float = 1e-5) -> None:
    """Raise unless two tensors are equal up to rounding.

    Raises:
        AssertionError: If they are not.
    """
    same = value.shape == expected.shape and torch.allclose(
        value, expected, rtol=tolerance, atol=tolerance, equal_nan=True
    )
    require(same, broken, of=of)


def require_plain(description: Any, *, of: str) -> None:
    """Raise unless a description is a non-empty mapping that can be written as JSON.

    Raises:
        AssertionError: If it is not.
    """
    try:
        json.dumps(description)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"A law of {of} is broken: describe() is not plain JSON ({error}).") from error
    require(isinstance(description, dict) and bool(description), "describe() says nothing", of=of)


def traces(modules: Iterable[nn.Module]) -> list[Any]:
    """Everything that a run must leave unchanged: keys, flags, hooks, classes, and `requires_grad`."""
    return [
        (
            list(module.state_dict()),
            [type(inner) for inner in module.modules()],
            [inner.training for inner in module.modules()],
            [parameter.requires_grad for parameter in module.parameters()],
            hooks_in(module),
        )
        for module in modules
    ]


def rows(batch: Batch, part: slice) -> Batch:
    """Select some examples of a batch whose inputs are one tensor."""

    def cut(column: Tensor | None) -> Tensor | None:
        return None if column is None else column[part]

    extra = {name: column[part] for name, column in batch.extra.items()}
    return Batch(batch.inputs[part], cut(batch.id), cut(batch.view), cut(batch.labels), cut(batch.mask), extra)


def weights(module: nn.Module) -> dict[str, Tensor]:
    """Copy the state of a module."""
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


def same_weights(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    """Whether two states are bitwise equal."""
    return list(mine) == list(theirs) and all(torch.equal(mine[key], theirs[key]) for key in mine)


def hooks_in(module: nn.Module) -> int:
    """Count the hooks of a module and its submodules."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
    return sum(len(getattr(inner, kind, ())) for inner in module.modules() for kind in kinds)
