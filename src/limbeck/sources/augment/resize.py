"""How is a box of an image brought to another size, to the bit on every device?"""

from __future__ import annotations

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

_BITS = 11
_ONE = 1 << _BITS


def resized(
    images: Shaped[Tensor, " batch *image"], boxes: Int[Tensor, "batch 4"], size: tuple[int, int]
) -> Shaped[Tensor, " batch *part"]:
    """Each image's box (top, left, height, width), resized to `size`: bilinear, with the corners of pixels aligned.

    Positions and weights are whole numbers of 2⁻¹¹ pixels. Bytes are computed with in whole numbers, floats one
    operation after the other, so that no device and no version rounds otherwise. A box of the size that is asked for
    comes out as it is.
    """
    whole = images if images.ndim == 4 else images.unsqueeze(1)
    top, left, height, width = boxes.unbind(1)
    out = _along(_widened(whole), *_places(top, height, size[0]), dim=2)
    out = _along(out, *_places(left, width, size[1]), dim=3)
    if images.dtype == torch.uint8:
        out = (out + (1 << (2 * _BITS - 1))) >> (2 * _BITS)
    out = out.to(images.dtype)
    return out if images.ndim == 4 else out.squeeze(1)


def _widened(images: Tensor) -> Tensor:
    """Bytes stay, as their sums are taken in int32; half floats are computed with in float32."""
    return images.float() if images.is_floating_point() and images.dtype.itemsize < 4 else images


def _places(start: Tensor, length: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `size` pixels: the two that it lies between, and the weight of the second in units of 2⁻¹¹."""
    step = torch.arange(size, device=start.device)
    # The middle of pixel i, (i + 1/2) length / size - 1/2, within the box.
    place = (((2 * step + 1) * length[:, None] - size) * _ONE).div(2 * size, rounding_mode="floor")
    place = torch.minimum(place.clamp(min=0), (length[:, None] - 1) * _ONE)
    first = place >> _BITS
    second = torch.minimum(first + 1, length[:, None] - 1)
    return start[:, None] + first, start[:, None] + second, place & (_ONE - 1)


def _along(images: Tensor, first: Tensor, second: Tensor, weight: Tensor, *, dim: int) -> Tensor:
    near, far = _taken(images, first, dim), _taken(images, second, dim)
    shape = [len(images), 1, -1, 1] if dim == 2 else [len(images), 1, 1, -1]
    if images.is_floating_point():
        share = weight.to(images.dtype).view(shape) * (1 / _ONE)
        return near * (1 - share) + far * share
    share = weight.int().view(shape)
    return near.int() * (_ONE - share) + far.int() * share


def _taken(images: Tensor, places: Tensor, dim: int) -> Tensor:
    shape = list(images.shape)
    shape[dim] = places.shape[1]
    index = places[:, None, :, None] if dim == 2 else places[:, None, None, :]
    return images.gather(dim, index.expand(shape))
