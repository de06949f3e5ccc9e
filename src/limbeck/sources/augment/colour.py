"""How are the colours of images changed, to the bit on every device?"""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

_FIXED = 1 << 24

Levels = Float[Tensor, "batch c h w"]


def opened(images: Shaped[Tensor, " batch *image"]) -> tuple[Levels, float]:
    """Images as floats ``[batch, c, h, w]`` to compute with, and the value of white: 255 for bytes, 1 for floats."""
    whole = images if images.ndim == 4 else images.unsqueeze(1)
    return whole.to(torch.float64 if whole.dtype == torch.float64 else torch.float32), white(images)


def closed(pixels: Levels, like: Shaped[Tensor, " batch *image"]) -> Shaped[Tensor, " batch *image"]:
    """Levels of the shape and type of the images that were opened; bytes are rounded."""
    whole = pixels.round() if like.dtype == torch.uint8 else pixels
    return whole.to(like.dtype).view(like.shape)


def white(images: Tensor) -> float:
    """The greatest value of a pixel."""
    return 255.0 if images.dtype == torch.uint8 else 1.0


def blend(pixels: Levels, other: Tensor, factor: Tensor, top: float) -> Levels:
    """``factor pixels + (1 - factor) other``, from 0 to `top`; a factor above 1 goes away from `other`.

    Products and sum are steps of their own: one fused operation would round otherwise where there is one.
    """
    share = factor.to(pixels.device, pixels.dtype).view(-1, 1, 1, 1)
    return (pixels * share + other * (1 - share)).clamp(0.0, top)


def brightened(pixels: Levels, factor: Tensor, top: float) -> Levels:
    """Every pixel times the image's factor."""
    return (pixels * factor.to(pixels.device, pixels.dtype).view(-1, 1, 1, 1)).clamp(0.0, top)


def contrasted(pixels: Levels, factor: Tensor, top: float) -> Levels:
    """A blend with the mean of the image in grey."""
    return blend(pixels, _mean(grey(pixels)), factor, top)


def saturated(pixels: Levels, factor: Tensor, top: float) -> Levels:
    """A blend with the image in grey; an image of one channel stays."""
    return pixels if pixels.shape[1] == 1 else blend(pixels, grey(pixels), factor, top)


def grey(pixels: Levels) -> Float[Tensor, "batch 1 h w"]:
    """The luma of ITU-R BT.601: 0.299 red + 0.587 green + 0.114 blue."""
    if pixels.shape[1] == 1:
        return pixels
    red, green, blue = pixels.split(1, 1)
    return red * 0.299 + green * 0.587 + blue * 0.114


def rotated_hue(pixels: Levels, turns: Tensor) -> Levels:
    """The hue of every pixel moved by a part of the whole circle; lightness and chroma stay; grey stays grey."""
    if pixels.shape[1] == 1:
        return pixels
    high, low = pixels.amax(1, keepdim=True), pixels.amin(1, keepdim=True)
    chroma = high - low
    sextant = _sextant(pixels, high, chroma) + (turns.to(pixels.device, pixels.dtype) * 6).view(-1, 1, 1, 1)
    channels = []
    for offset in (5.0, 3.0, 1.0):
        place = torch.remainder(sextant + offset, 6.0)
        channels.append(high - chroma * torch.minimum(place, 4.0 - place).clamp(0.0, 1.0))
    return torch.cat(channels, 1)


def _sextant(pixels: Tensor, high: Tensor, chroma: Tensor) -> Tensor:
    """The hue in sixths of the circle, -1 to 5; 0 is red, 2 green, 4 blue."""
    red, green, blue = pixels.split(1, 1)
    whole = torch.where(chroma > 0, chroma, 1.0)
    from_blue = (red - green) / whole + 4.0
    from_green = torch.where(high == green, (blue - red) / whole + 2.0, from_blue)
    return torch.where(high == red, (green - blue) / whole, from_green)


def _mean(pixels: Float[Tensor, "batch 1 h w"]) -> Float[Tensor, "batch 1 1 1"]:
    # Whole numbers have one sum, whatever the order in which a device adds them.
    fixed = (pixels.double() * _FIXED).round().long()
    mean = fixed.sum((1, 2, 3), keepdim=True).double() * (1.0 / (_FIXED * pixels[0].numel()))
    return mean.to(pixels.dtype)
