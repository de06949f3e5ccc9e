"""Describes a model of transformers with fewer channels by its configuration: removed channels come back as zeros."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

FEED_FORWARD = ("intermediate_size", "hidden_dim", "d_ff", "n_inner", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_dim")
"""The settings of configurations with the width of the feed-forward layers."""

Shapes = dict[str, tuple[int, ...]]


def find_widths(model: nn.Module) -> dict[str, int] | None:
    """Find the narrowest feed-forward layers of a configuration that hold all channels of a model.

    Channels that were removed leave the feed-forward layers with widths of their own, and a configuration has one for
    all. So it gets the largest of them.

    Args:
        model: A model of transformers. It is not changed.

    Returns:
        The settings with other values than in the model's configuration, such as ``{"intermediate_size": 20}``; None if
        the model has other tensors than its configuration says, or larger ones.
    """
    plain: Any = model
    own, described = _shapes(model), _shapes(_build(plain, {}))
    if not _fits(own, described):
        return None
    config = plain.config.to_dict()
    widths: dict[str, int] = {}
    for key in (key for key in FEED_FORWARD if key in config):
        # GPT-2 leaves its width out where it is four times that of the hidden states.
        before = 4 * plain.config.hidden_size if config[key] is None else config[key]
        left = [b for name, shape in described.items() for a, b in zip(shape, own[name], strict=True) if a == before]
        if left and max(left) < before:
            widths[key] = max(left)
    return widths if _fits(own, _shapes(_build(plain, widths))) else {}


def fill_channels(model: nn.Module, widths: dict[str, int]) -> nn.Module:
    """Copy a model into one that its configuration describes, with these widths.

    Channels that it lacks are zeros in every tensor, also in those that read them, so the outputs are the same.

    Args:
        model: A model of transformers. It is not changed.
        widths: What `find_widths` has found.
    """
    filled = _build(model, widths, device="cpu")
    own = model.state_dict()
    with torch.no_grad():
        for name, tensor in filled.state_dict().items():
            tensor.zero_()[tuple(slice(size) for size in own[name].shape)] = own[name].to(tensor)
    return filled.to(next(iter(own.values())).dtype)


def _build(model: Any, widths: dict[str, int], *, device: str = "meta") -> nn.Module:
    """The model of its configuration with these widths; on the meta device without memory for its weights."""
    config = copy.deepcopy(model.config)
    for key, value in widths.items():
        setattr(config, key, value)
    with torch.device(device):
        built: nn.Module = type(model)(config)
    return built


def _shapes(model: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}


def _fits(own: Shapes, described: Shapes) -> bool:
    """Whether both have the same tensors, and each is at most as large as described."""
    return own.keys() == described.keys() and all(
        len(shape) == len(own[name]) and all(a >= b for a, b in zip(shape, own[name], strict=True))
        for name, shape in described.items()
    )
