"""Checks and random draws that the transforms share."""

from __future__ import annotations

import math
from dataclasses import fields
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from limbeck.errors import DataError, LimbeckError

Number = float | int
"""Type of numeric parameters; a job may contain 1 instead of 1.0."""


def check_number(
    who: str, *, least: Number = -math.inf, most: Number = math.inf, above: Number | None = None, **values: Any
) -> None:
    """Check that parameters are finite numbers within bounds.

    Raises:
        LimbeckError: If one is not. The message has the value and the bounds.
    """
    low = f"above {above:g}" if above is not None else f"{least:g} or more"
    bounds = [low] if above is not None or least > -math.inf else []
    bounds += [f"at most {most:g}"] if most < math.inf else []
    for name, value in values.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not least <= value <= most or (above is not None and value <= above):
            raise LimbeckError(f"{who}({name}={value!r}): {name} must be a number, {' and '.join(bounds) or 'finite'}.")


def check_whole(who: str, *, least: int, **values: Any) -> None:
    """Check that parameters are whole numbers of at least `least`.

    Raises:
        LimbeckError: If one is not.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise LimbeckError(f"{who}({name}={value!r}): {name} must be a whole number, {least} or more.")


def check_size(who: str, size: Any) -> None:
    """Check a size: None, a positive whole number, or (height, width).

    Raises:
        LimbeckError: If it is not valid.
    """
    if size is None:
        return
    sides = size if isinstance(size, tuple) and len(size) == 2 else (size,)
    if any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in sides):
        raise LimbeckError(
            f"{who}(size={size!r}): size must be a number of pixels, (height, width) such as (24, 32), or None to keep "
            "the image size."
        )


def check_range(who: str, *, above: Number = -math.inf, most: Number = math.inf, **values: Any) -> None:
    """Check that parameters are pairs of increasing numbers within bounds.

    Raises:
        LimbeckError: If one is not.
    """
    for name, value in values.items():
        pair: Any = value if isinstance(value, tuple) and len(value) == 2 else (None, None)
        for end in pair:
            number = isinstance(end, (int, float)) and not isinstance(end, bool) and math.isfinite(end)
            if not number or not above < end <= most:
                up = f" and at most {most:g}" if most < math.inf else ""
                raise LimbeckError(f"{who}({name}={value!r}): {name} must be two numbers, both above {above:g}{up}.")
        if pair[0] > pair[1]:
            raise LimbeckError(f"{who}({name}={value!r}): the first number is above the second; use {value[::-1]}.")


def check_images(inputs: Any, *, who: str) -> None:
    """Check that inputs are images with height and width last."""
    shape: Any = list(inputs.shape) if isinstance(inputs, Tensor) else f"a {type(inputs).__name__}"
    if not isinstance(inputs, Tensor) or inputs.ndim not in (3, 4):
        raise DataError(f"{who} needs images [batch, h, w] or [batch, c, h, w]; got {shape}.")
    if inputs.ndim == 4 and shape[-1] in (1, 3, 4) and shape[1] not in (1, 3, 4):
        raise DataError(
            f"{who} needs channels before height and width, but {shape} looks like [batch, h, w, c]. "
            "Convert the images with x.transpose(0, 3, 1, 2)."
        )


def check_fill(who: str, fill: Number, images: Tensor) -> None:
    """Check that `fill` is a valid pixel value of the images.

    Raises:
        DataError: If it is not. The message has the value and the images' dtype.
    """
    if images.is_floating_point():
        return
    ends = (0, 1) if images.dtype == torch.bool else (torch.iinfo(images.dtype).min, torch.iinfo(images.dtype).max)
    if fill != int(fill) or not ends[0] <= fill <= ends[1]:
        raise DataError(
            f"{who}(fill={fill!r}) is not a value of {_type(images)} pixels, which are whole, {ends[0]} to {ends[1]}."
        )


def check_pixels(images: Tensor, *, who: str) -> None:
    """Check that inputs are gray or RGB images of bytes, or of floats from 0 to 1.

    Raises:
        DataError: If they are not.
    """
    check_images(images, who=who)
    if images.ndim == 4 and images.shape[1] not in (1, 3):
        raise DataError(f"{who} needs gray or RGB images; these have {images.shape[1]} channels.")
    if images.dtype == torch.uint8:
        return
    check_mean_exists(images, who=who)
    low, high = (float(end) for end in images.aminmax()) if images.numel() else (0.0, 1.0)
    if not (low >= 0.0 and high <= 1.0):
        raise DataError(
            f"{who} needs bytes, or floats from 0 to 1; these are from {low:g} to {high:g}. Scale them to 0 to 1, and "
            "normalize afterwards: preprocess=lb.NormalizeImages(mean=..., std=..., scale=1)."
        )


def check_mean_exists(inputs: Tensor, *, who: str) -> None:
    """Check that inputs are one tensor of bytes or floats, which can be averaged.

    Raises:
        DataError: If they are not.
    """
    if not isinstance(inputs, Tensor) or not (inputs.dtype == torch.uint8 or inputs.is_floating_point()):
        kind = f"a tensor of {_type(inputs)}" if isinstance(inputs, Tensor) else f"a {type(inputs).__name__}"
        raise DataError(
            f"{who} averages pixels, so inputs must be one tensor of bytes or floats; these are {kind}. "
            "Tokens, texts and classes cannot be averaged."
        )


def height_and_width(size: int | tuple[int, int] | None, images: Shaped[Tensor, "*shape"]) -> tuple[int, int]:
    """Convert `size` to (height, width); None is the size of the images."""
    if size is None:
        return int(images.shape[-2]), int(images.shape[-1])
    return (size, size) if isinstance(size, int) else size


def format_fingerprint(name: str, transform: Any) -> str:
    """Format a fingerprint: name and version, and every field of the dataclass."""
    return " ".join(
        [name, *(f"{field.name}={_canonical(getattr(transform, field.name))}" for field in fields(transform))]
    )


def _canonical(value: Any) -> str:
    """Format a value so that 1 and 1.0 are the same."""
    if isinstance(value, tuple):
        return f"({','.join(map(_canonical, value))})"
    return repr(int(value)) if isinstance(value, float) and value.is_integer() else repr(value)


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


_STRATA = 1 << 16

_DIGITS = 1 << 16


def sample_beta(draw: Float[Tensor, " batch"], alpha: Number) -> Float[Tensor, " batch"]:
    r"""Convert uniform numbers of 24 bits to :math:`Beta(\alpha, \alpha)` variates.

    For :math:`\alpha = 1` the draws are returned unchanged. Otherwise the first 16 bits of a draw, a whole number i,
    select the quantile at :math:`(i + 1/2) / 2^{16}` from a table of 65,536 equally likely strata. The quantiles are
    rounded to 16 significant bits, so small differences between libraries and processors do not matter, and a draw is
    the same in every batch and on every device. The upper half of the table mirrors the lower half, so that the mean
    is exactly 1/2.
    """
    if alpha == 1:
        return draw
    return _quantiles(float(alpha)).to(draw.device)[(draw.double() * _STRATA).long()]


@lru_cache(maxsize=16)
def _quantiles(alpha: float) -> Float[Tensor, " strata"]:
    from scipy.special import betaincinv  # slow to import, and not needed for alpha = 1

    middles = (np.arange(_STRATA // 2) + 0.5) / _STRATA
    digits, exponent = np.frexp(betaincinv(alpha, alpha, middles))
    lower = np.ldexp(np.round(digits * _DIGITS) / _DIGITS, exponent)
    return torch.from_numpy(np.concatenate([lower, 1.0 - lower[::-1]])).float()


def randint(draw: Float[Tensor, "*shape"], count: Int[Tensor, "*shape"] | int) -> Int[Tensor, "*shape"]:
    """Convert uniform numbers in [0, 1) of 24 bits to integers in ``0..count-1``."""
    return (draw.double() * count).long()  # exact in float64, so the result is always below count


def uniform(draw: Float[Tensor, "*shape"], low: Number, high: Number) -> Float[Tensor, "*shape"]:
    """Convert uniform numbers in [0, 1) to [low, high), in float64; exactly `low` if both are equal."""
    return draw.double() * (high - low) + low


def broadcast_per_image(value: Shaped[Tensor, " batch"], images: Any) -> Shaped[Tensor, "*shape"]:
    """Move one value per image to the images' device and reshape it to broadcast over pixels."""
    return value.to(images.device).view(-1, *[1] * (images.ndim - 1))


def box_mask(
    draws: Float[Tensor, "batch 2"], sides: tuple[int, int], sizes: tuple[Int[Tensor, " batch"] | int, ...]
) -> Bool[Tensor, "batch h w"]:
    """Mask of a box in each image; its center is uniform over all pixels, and parts outside of the image are cut off.

    Args:
        draws: Uniform numbers for the row and the column of the center.
        sides: Height and width of the images.
        sizes: Height and width of the boxes.
    """
    inside = []
    for draw, side, size in zip(draws.unbind(1), sides, sizes, strict=True):
        start, position = randint(draw, side) - size // 2, torch.arange(side, device=draws.device)
        end = start + size
        inside.append((position >= start[:, None]) & (position < end[:, None]))
    return inside[0][:, :, None] & inside[1][:, None, :]


def row_indices(images: Tensor) -> Int[Tensor, " batch"]:
    """The index of each row of the batch."""
    return torch.arange(len(images), device=images.device)
