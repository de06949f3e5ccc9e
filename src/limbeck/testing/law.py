"""`LawError`, and helpers of the checks: assertions, and states and hooks of modules."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import Batch


class LawError(AssertionError):
    """One or more laws are broken.

    Attributes:
        broken: A sentence for each broken law.
    """

    def __init__(self, of: str, broken: Sequence[str], *, subject: str = "") -> None:
        self.broken = tuple(dict.fromkeys(broken))
        who = f"{subject}: " if subject else ""
        if len(self.broken) == 1:
            super().__init__(f"{who}A law of {of} is broken: {self.broken[0]}.")
        else:
            lines = "".join(f"\n{number}. {text}" for number, text in enumerate(self.broken, 1))
            super().__init__(f"{who}{len(self.broken)} laws of {of} are broken:{lines}")


def check_laws(laws: Iterable[Callable[[], None]], *, of: str, subject: str = "") -> None:
    """Check all laws, and raise one error that lists all broken ones.

    Any other exception counts as a broken law, since a check should explain what an object does wrong.

    Args:
        laws: Functions that raise `LawError`. The first line of a docstring is used as the name of the law.
        of: The kind of objects, such as ``kernels``.
        subject: The checked object.

    Raises:
        LawError: If a law is broken.
    """
    __tracebackhide__ = True  # pytest then shows the message, not this function
    broken: list[str] = []
    cause: Exception | None = None
    for law in laws:
        try:
            law()
        except LawError as error:
            broken += error.broken
        except Exception as error:
            function = law.func if isinstance(law, partial) else law
            name = next(iter((function.__doc__ or "").splitlines()), "").rstrip(".")
            broken.append(f"{name}: raises {type(error).__name__}: {str(error).strip().rstrip('.')}")
            cause = error
    if broken:
        raise LawError(of, broken, subject=subject) from cause


def require(condition: bool, broken: str, *, of: str) -> None:
    """Raise an error if a condition is false.

    Raises:
        LawError: If the law is broken.
    """
    if not condition:
        raise LawError(of, [broken])


def require_close(value: Tensor, expected: Tensor, broken: str, *, of: str, tolerance: float = 1e-5) -> None:
    """Raise unless two tensors are equal up to rounding.

    Raises:
        LawError: If they are not.
    """
    same = value.shape == expected.shape and torch.allclose(
        value, expected, rtol=tolerance, atol=tolerance, equal_nan=True
    )
    require(same, broken, of=of)


def require_plain(description: Any, *, of: str) -> None:
    """Raise unless a description is a non-empty mapping that can be written as JSON.

    Raises:
        LawError: If it is not.
    """
    try:
        json.dumps(description)
    except (TypeError, ValueError) as error:
        raise LawError(of, [f"describe() is not plain JSON ({error})"]) from error
    require(isinstance(description, dict) and bool(description), "describe() is not a mapping with entries", of=of)


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
    """Select some examples of a batch."""
    return batch.rows(torch.arange(batch.size)[part])


def weights(module: nn.Module) -> dict[str, Tensor]:
    """Copy the state of a module."""
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


def same_weights(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    """Whether two states are bitwise equal."""
    return list(mine) == list(theirs) and all(torch.equal(mine[key], theirs[key]) for key in mine)


def hooks_in(module: nn.Module) -> int:
    """Count the hooks of a module and its submodules."""
    return sum(
        len(inner._forward_hooks)
        + len(inner._forward_pre_hooks)
        + len(inner._backward_hooks)
        + len(inner._backward_pre_hooks)
        + len(inner._state_dict_hooks)
        for inner in module.modules()
    )
