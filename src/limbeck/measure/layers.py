"""Which layers of a model show something of each example?"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.models.size import uncompiled
from limbeck.signal import Batch, Inputs
from limbeck.tap import Frozen, call

Reading = Callable[[Batch], Inputs]


def layers_shown(model: nn.Module, batch: Batch, reads: Reading) -> dict[str, int]:
    """The layers with a matrix or kernel of weights by name, and how many numbers each gives for an example.

    Those alone that a forward pass calls, and that give one row for each example: an embedding of positions gives one
    for all, and the projection inside ``nn.MultiheadAttention`` is read without being called.

    Args:
        model: Any module, on its device; asked once, in eval mode, without gradient.
        batch: Some examples, two at least.
        reads: The model's way from a batch to its inputs.

    Raises:
        LimbeckError: If there are no such layers.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> layers_shown(model, Batch(torch.zeros(5, 3)), lambda batch: batch.inputs)
        {'0': 8, '2': 2}
    """
    found: dict[str, int] = {}
    named = [(name, module) for name, module in uncompiled(model).named_modules() if name and _is_layer(module)]
    with ExitStack() as stack:
        for name, module in named:
            stack.callback(module.register_forward_hook(_noting(found, name, batch.size)).remove)
        stack.enter_context(Frozen(model))
        with torch.no_grad():
            call(model, reads(batch.to(device_of(model))))
    if not found:
        raise LimbeckError(f"{type(model).__name__} has no layers with weights; name some: student_layers=['layer1'].")
    return {name: found[name] for name, _ in named if name in found}


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters lie."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _is_layer(module: nn.Module) -> bool:
    return any(p.ndim > 1 for p in module.parameters(recurse=False)) and not list(module.children())


def _noting(found: dict[str, int], name: str, rows: int) -> Callable[..., None]:
    def note(module: nn.Module, arguments: Any, output: Any) -> None:
        shown = output[0] if isinstance(output, (tuple, list)) and output else output
        if isinstance(shown, Tensor) and shown.ndim and len(shown) == rows:
            found[name] = shown[0].numel()

    return note
