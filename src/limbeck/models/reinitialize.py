"""Makes a model of the same architecture with new weights."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.models.reference import build, get_model_spec, seeded


def reinitialize(model: nn.Module, *, seed: int | None = None) -> nn.Module:
    """A newly initialized model of the same architecture; the original is not changed.

    A reference network is built again. Any other module is copied, and every submodule with ``reset_parameters``, as
    PyTorch's own layers have it, calls it, the inner ones first, as in their constructors. Device, dtypes,
    ``requires_grad`` and training flags are those of the original.

    Args:
        model: The module.
        seed: The seed of the new weights; the global generator is not changed. None uses the global generator.

    Returns:
        A module that shares nothing with `model`.

    Raises:
        LimbeckError: If a parameter belongs to a module without ``reset_parameters``; it is named.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> torch.equal(reinitialize(model, seed=0).weight, model.weight)
        False
    """
    check_fresh(model)
    spec = get_model_spec(model)
    twin = copy.deepcopy(model)
    if spec is not None:
        twin.load_state_dict(build(spec.name, seed=seed, **spec.arguments).state_dict())
        return twin
    with seeded(seed), torch.no_grad():
        for module in reversed(list(twin.modules())):
            if reset := _reset(module):
                reset()
    return twin


def check_fresh(model: nn.Module) -> None:
    """Refuse a model that `reinitialize` cannot handle.

    Raises:
        LimbeckError: If a parameter belongs to a module without ``reset_parameters``; it is named.
    """
    if get_model_spec(model) is not None:
        return
    for path, module in model.named_modules():
        own = next((name for name, _ in module.named_parameters(recurse=False)), None)
        if own is not None and _reset(module) is None:
            address = f"{path}.{own}" if path else own
            raise LimbeckError(
                f"The parameter {address!r} belongs to a {type(module).__name__}, which cannot initialize itself "
                "(it has no reset_parameters()); pass a function that builds the model instead, or add that method."
            )


def _reset(module: nn.Module) -> Callable[[], None] | None:
    # Only some layers have it; nn.MultiheadAttention and nn.Transformer spell it with an underscore.
    reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    return reset if callable(reset) else None
