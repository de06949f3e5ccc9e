"""Adds biases to a model's logits, inside the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limbeck.errors import LimbeckError, unknown_name_error


def add_bias(model: nn.Module, bias: Float[Tensor, " classes"], *, at: str | None = None) -> nn.Module:
    """Add to the bias of the layer that computes the logits; no wrapper is needed.

    A layer without a bias gets one, and then `limbeck.load` needs a `build` whose layer has one too.

    Args:
        model: Changed in place.
        bias: One number for each class.
        at: The address of the layer that computes the logits; by default the last linear layer or convolution in the
            model that has one output for each class.

    Returns:
        The same model.

    Raises:
        UnknownNameError: If there is no module at `at`.
        LimbeckError: If `bias` is not one finite number for each class, that layer has another number of outputs, or
            there is none that has as many as `bias`.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3))
        >>> before = model(torch.ones(1, 2))
        >>> (add_bias(model, torch.tensor([0.0, 1.0, 0.0]))(torch.ones(1, 2)) - before).round(decimals=4)
        tensor([[0., 1., 0.]], grad_fn=<RoundBackward1>)
    """
    _check_bias(bias)
    layer = _layer(model, len(bias), at)
    with torch.no_grad():
        if layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros(len(bias), dtype=layer.weight.dtype, device=layer.weight.device))
        layer.bias += bias.to(layer.bias)
    return model


def _check_bias(bias: Any) -> None:
    if not isinstance(bias, Tensor) or bias.ndim != 1 or not bool(torch.isfinite(bias).all()):
        value = f"{list(bias.shape)}" if isinstance(bias, Tensor) and bias.ndim != 1 else f"{bias}"
        raise LimbeckError(f"The bias must be a tensor with one finite number for each class; got {value}.")


def _layer(model: nn.Module, classes: int, at: str | None) -> Any:
    modules = dict(model.named_modules())
    if at is not None:
        if at not in modules:
            raise unknown_name_error("address", at, [name for name in modules if name])
        if _outputs(modules[at]) != classes:
            what = type(modules[at]).__name__
            raise LimbeckError(f"{at}, a {what}, is no linear layer of {classes} outputs, one for each bias.")
        return modules[at]
    fitting: Sequence[nn.Module] = [module for module in modules.values() if _outputs(module) == classes]
    if not fitting:
        raise LimbeckError(
            f"No linear layer of {type(model).__name__} has {classes} outputs, one for each bias; name it: at='...'."
        )
    return fitting[-1]


def _outputs(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return module.out_channels
    return None
