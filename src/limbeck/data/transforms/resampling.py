"""Rotation, shear and translation with nearest-neighbor sampling, and bilinear resizing."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

if TYPE_CHECKING:
    from scipy.sparse import csr_array


Images = Shaped[Tensor, "batch c h w"]


class Matrix(NamedTuple):
    """Source of a pixel: ``x' = xx x + xy y + right`` and ``y' = yx x + yy y + down``, relative to the center.

    x points to the right and y down, in pixels.
    """

    xx: float = 1.0
    xy: float = 0.0
    right: float = 0.0
    yx: float = 0.0
    yy: float = 1.0
    down: float = 0.0


def rotation_matrix(degrees: float) -> Matrix:
    """Matrix of a counter-clockwise rotation about the center."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return Matrix(xx=cos, xy=-sin, yx=sin, yy=cos)


def warp(images: Images, forth: Bool[Tensor, " batch"], forward_matrix: Matrix, backward_matrix: Matrix) -> Images:
    """Warp each image by `forward_matrix` where `forth` is true, else by `backward_matrix`; empty areas become 0.

    Each output pixel is a copy of the nearest input pixel: values are never interpolated.
    """
    height, width = images.shape[2:]
    maps = [_source_pixels(matrix, height, width) for matrix in (backward_matrix, forward_matrix)]
    which = forth.long().to(images.device)
    source, inside = (torch.stack(part).to(images.device)[which].unsqueeze(1) for part in zip(*maps, strict=True))
    flat = images.flatten(2)
    moved = flat.gather(2, source.expand(flat.shape))
    return moved.masked_fill(~inside, 0).view(images.shape)


def _source_pixels(matrix: Matrix, height: int, width: int) -> tuple[Int[Tensor, " hw"], Bool[Tensor, " hw"]]:
    """For each output pixel, the index of its source pixel, and whether it is inside the image."""
    x = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    y = torch.arange(height, dtype=torch.float64)[:, None] - (height - 1) / 2
    across = (x * matrix.xx + y * matrix.xy + (matrix.right + width / 2)).floor().long()
    along = (x * matrix.yx + y * matrix.yy + (matrix.down + height / 2)).floor().long()
    inside = (across >= 0) & (across < width) & (along >= 0) & (along < height)
    source = along.clamp(0, height - 1) * width + across.clamp(0, width - 1)
    return source.flatten(), inside.flatten()


_BITS = 11

_ONE = 1 << _BITS


def resize_boxes(
    images: Shaped[Tensor, " batch *image"], boxes: Int[Tensor, "batch 4"], size: tuple[int, int]
) -> Shaped[Tensor, " batch *part"]:
    """Resize the box (top, left, height, width) of each image to `size`: bilinear, with pixel corners aligned.

    Positions and weights are multiples of 2⁻¹¹ pixels. Bytes are computed in whole numbers and floats with separate
    operations, so that all devices and versions round alike. A box that already has the right size is not changed.
    """
    whole = images if images.ndim == 4 else images.unsqueeze(1)
    on_processor = images.device.type == "cpu" and images.dtype == torch.uint8
    out = _resize_bytes(whole, boxes, size) if on_processor else _resize_on_any_device(whole, boxes, size)
    return out if images.ndim == 4 else out.squeeze(1)


def _resize_bytes(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Fast version for bytes on the CPU, with the same results: image by image, to stay in the processor's cache.

    Resizing along an axis is a product with a sparse matrix that has two weights per row. The other axis and the
    channels are contiguous, so that the product accesses memory in order.
    """
    pixels, channels = images.numpy(), images.shape[1]
    out = np.empty((len(images), channels, *size), dtype=np.uint8)
    for number, (top, left_edge, height, width) in enumerate(boxes.tolist()):
        box = pixels[number, :, top : top + height, left_edge : left_edge + width].transpose(2, 0, 1)
        across = _weights(width, size[1]) @ box.astype(np.int32, order="C").reshape(width, -1)
        turned = across.reshape(size[1], channels, height).transpose(2, 1, 0)
        down = _weights(height, size[0]) @ np.ascontiguousarray(turned).reshape(height, -1)
        down += 1 << (2 * _BITS - 1)
        down >>= 2 * _BITS
        out[number] = down.reshape(size[0], channels, size[1]).transpose(1, 0, 2)
    return torch.from_numpy(out)


@lru_cache(maxsize=2048)
def _weights(length: int, size: int) -> csr_array:
    """The sparse matrix ``[size, length]`` that resizes one axis, in units of 2⁻¹¹."""
    from scipy.sparse import csr_array

    first, second, weight = (
        part[0].int().numpy() for part in _source_positions(torch.tensor([0]), torch.tensor([length]), size)
    )
    shares = np.stack([_ONE - weight, weight], 1).ravel()
    columns = np.stack([first, second], 1).ravel()
    return csr_array((shares, columns, np.arange(0, 2 * size + 1, 2, dtype=np.int32)), shape=(size, length))


def _resize_on_any_device(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Version for all images at once, on any device, for bytes or floats."""
    top, left_edge, height, width = boxes.unbind(1)
    out = _interpolate(_promote_half(images), *_source_positions(top, height, size[0]), dim=2)
    out = _interpolate(out, *_source_positions(left_edge, width, size[1]), dim=3)
    if images.dtype == torch.uint8:
        out = (out + (1 << (2 * _BITS - 1))) >> (2 * _BITS)
    return out.to(images.dtype)


def _promote_half(images: Tensor) -> Tensor:
    """Convert half-precision floats to float32; other types stay (sums of bytes are in int32 anyway)."""
    return images.float() if images.is_floating_point() and images.dtype.itemsize < 4 else images


def _source_positions(start: Tensor, length: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `size` pixels: its two source pixels, and the weight of the second in units of 2⁻¹¹."""
    step = torch.arange(size, device=start.device)
    # The center of pixel i, (i + 1/2) * length / size - 1/2, within the box.
    position = (((2 * step + 1) * length[:, None] - size) * _ONE).div(2 * size, rounding_mode="floor")
    position = torch.minimum(position.clamp(min=0), (length[:, None] - 1) * _ONE)
    first = position >> _BITS
    second = torch.minimum(first + 1, length[:, None] - 1)
    return start[:, None] + first, start[:, None] + second, position & (_ONE - 1)


def _interpolate(images: Tensor, first: Tensor, second: Tensor, weight: Tensor, *, dim: int) -> Tensor:
    near, far = _gather_along(images, first, dim), _gather_along(images, second, dim)
    shape = [len(images), 1, -1, 1] if dim == 2 else [len(images), 1, 1, -1]
    if images.is_floating_point():
        share = weight.to(images.dtype).view(shape) * (1 / _ONE)
        return near * (1 - share) + far * share
    share = weight.int().view(shape)
    return near.int() * (_ONE - share) + far.int() * share


def _gather_along(images: Tensor, positions: Tensor, dim: int) -> Tensor:
    shape = list(images.shape)
    shape[dim] = positions.shape[1]
    index = positions[:, None, :, None] if dim == 2 else positions[:, None, None, :]
    return images.gather(dim, index.expand(shape))
