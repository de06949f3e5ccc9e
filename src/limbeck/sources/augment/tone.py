"""How are the grey levels of images stretched, cut and sharpened?"""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Tensor

from limbeck.sources.augment.colour import blend, closed, opened

Images = Shaped[Tensor, "batch c h w"]


def auto_contrast(images: Images) -> Images:
    """Each channel stretched so that its darkest pixel is black and its lightest white; one of one level stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    if images.dtype != torch.uint8:
        return torch.where(high > low, (images - low) / torch.where(high > low, high - low, 1.0), images)
    span = (high.int() - low.int()).clamp(min=1)
    level = ((images.int() - low.int()) * 510 + span).div(2 * span, rounding_mode="floor")
    return torch.where(high > low, level.to(torch.uint8), images)


def equalised(images: Images) -> Images:
    """Each channel with its levels spread so that each is about as frequent, as Pillow does it; in 256 levels."""
    flat = levels(images).flatten(2).flatten(0, 1).long()
    count = torch.zeros(len(flat), 256, dtype=torch.int64, device=flat.device).scatter_add_(
        1, flat, torch.ones_like(flat)
    )
    last = count.gather(1, flat.amax(1, keepdim=True))
    step = (flat.shape[1] - last).div(255, rounding_mode="floor")
    before = count.cumsum(1) - count
    spread = (before + step.div(2, rounding_mode="floor")).div(step.clamp(min=1), rounding_mode="floor").clamp(max=255)
    found = spread.gather(1, flat).view(images.shape)
    return torch.where((step > 0).view(*images.shape[:2], 1, 1), like(found, images), images)


def posterised(images: Images, bits: int) -> Images:
    """Only the first `bits` of each byte; with 8, the images themselves."""
    return images if bits == 8 else like(levels(images) & (256 - (1 << (8 - bits))), images)


def solarised(images: Images, strength: float) -> Images:
    """What is at or above ``256 (1 - strength)`` in bytes turned to its negative; at 0, nothing."""
    threshold = 256 * (1 - strength)
    if images.dtype == torch.uint8:
        return torch.where(images >= threshold, 255 - images, images)
    return torch.where(images * 255 >= threshold, 1 - images, images)


def sharpened(images: Images, factor: Tensor) -> Images:
    """A blend with the image smoothed by ``[[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13``; the border stays."""
    if min(images.shape[2:]) < 3:
        return images
    pixels, top = opened(images)
    height, width = pixels.shape[2:]
    inner = pixels[:, :, 1:-1, 1:-1]
    total = inner * 4
    for down in range(3):
        for right in range(3):
            total = total + pixels[:, :, down : height - 2 + down, right : width - 2 + right]
    smooth = pixels.clone()
    smooth[:, :, 1:-1, 1:-1] = total * (1 / 13)
    return closed(blend(pixels, smooth, factor, top), images)


def levels(images: Images) -> Shaped[Tensor, "batch c h w"]:
    """The nearest bytes."""
    return images if images.dtype == torch.uint8 else (images * 255).round().to(torch.uint8)


def like(found: Tensor, images: Images) -> Images:
    """Levels from 0 to 255 in the images' own type."""
    if images.dtype == torch.uint8:
        return found.to(torch.uint8)
    return (found.to(torch.promote_types(images.dtype, torch.float32)) * (1 / 255)).to(images.dtype)
