"""Checks for the parameters and inputs of transforms."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from limbeck.data.transform import check_images
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
