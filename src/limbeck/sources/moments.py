"""Mean and standard deviation of the pixels of a set of images, channel by channel."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.sources.examples import Examples
from limbeck.sources.prefetch import prefetch

_AT_A_TIME = 64  # images: two thousand of 224 pixels would take gigabytes in float64


def measure_pixels(examples: Examples) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]] | None:
    """The mean and the standard deviation of each channel of images of bytes, in float64; None for anything else.

    Sums are taken in whole numbers, so they do not depend on the order.
    """
    count, total, squares = 0, torch.tensor(0), torch.tensor(0)
    parts = torch.arange(len(examples)).split(_AT_A_TIME)
    for sums in prefetch(partial(_sums, examples), parts, num_workers=examples.num_workers):
        if sums is None:
            return None
        count, total, squares = count + sums[0], total + sums[1], squares + sums[2]
    mean = total.double() / count
    variance = (squares.double() - count * mean**2).clamp(min=0) / max(count - 1, 1)
    return mean, variance.sqrt()


def _sums(examples: Examples, index: Any) -> tuple[int, Tensor, Tensor] | None:
    """How many pixels a channel has, their sum and that of their squares, for each channel."""
    images = examples.take(index).inputs
    if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim not in (3, 4):
        return None
    whole = images if images.ndim == 4 else images[:, None]
    levels = torch.arange(256)
    counts = torch.stack([channel.flatten().bincount(minlength=256) for channel in whole.unbind(1)])
    return whole.numel() // whole.shape[1], counts @ levels, counts @ levels**2
