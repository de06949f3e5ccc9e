"""Color operations on images, and the transform `ColorJitter`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from limbeck.data.transforms.common import Number, check_number, check_pixels, format_fingerprint, uniform
from limbeck.random_seeds import counter_uniform

_FIXED = 1 << 24

Levels = Float[Tensor, "batch c h w"]


def to_float(images: Shaped[Tensor, " batch *image"]) -> tuple[Levels, float]:
    """Convert images to floats ``[batch, c, h, w]``, and return the value of white: 255 for bytes, 1 for floats."""
    whole = images if images.ndim == 4 else images.unsqueeze(1)
    return whole.to(torch.float64 if whole.dtype == torch.float64 else torch.float32), max_value(images)


def restore_dtype(pixels: Levels, like: Shaped[Tensor, " batch *image"]) -> Shaped[Tensor, " batch *image"]:
    """Convert the result of `to_float` back to the shape and dtype of `like`; bytes are rounded."""
    whole = pixels.round() if like.dtype == torch.uint8 else pixels
    return whole.to(like.dtype).view(like.shape)


def max_value(images: Tensor) -> float:
    """The largest value of a pixel: 255 for bytes, 1 for floats."""
    return 255.0 if images.dtype == torch.uint8 else 1.0


def blend(pixels: Levels, other: Tensor, factor: Tensor, top: float) -> Levels:
    """``factor * pixels + (1 - factor) * other``, clamped to 0 to `top`; a factor above 1 moves away from `other`.

    Products and sum are separate operations: a fused one rounds differently on some devices.
    """
    share = factor.to(pixels.device, pixels.dtype).view(-1, 1, 1, 1)
    return (pixels * share + other * (1 - share)).clamp(0.0, top)


def adjust_brightness(pixels: Levels, factor: Tensor, top: float) -> Levels:
    """Multiply the pixels of each image by its factor."""
    return (pixels * factor.to(pixels.device, pixels.dtype).view(-1, 1, 1, 1)).clamp(0.0, top)


def adjust_contrast(pixels: Levels, factor: Tensor, top: float) -> Levels:
    """Blend each image with its mean gray level."""
    return blend(pixels, _mean(rgb_to_grayscale(pixels)), factor, top)


def adjust_saturation(pixels: Levels, factor: Tensor, top: float) -> Levels:
    """Blend each image with its grayscale version; images of one channel stay."""
    return pixels if pixels.shape[1] == 1 else blend(pixels, rgb_to_grayscale(pixels), factor, top)


def rgb_to_grayscale(pixels: Levels) -> Float[Tensor, "batch 1 h w"]:
    """Convert to grayscale (ITU-R BT.601): 0.299 red + 0.587 green + 0.114 blue."""
    if pixels.shape[1] == 1:
        return pixels
    red, green, blue = pixels.split(1, 1)
    return red * 0.299 + green * 0.587 + blue * 0.114


def adjust_hue(pixels: Levels, turns: Tensor) -> Levels:
    """Rotate the hue of every pixel by a fraction of the color circle; lightness and chroma stay."""
    if pixels.shape[1] == 1:
        return pixels
    high, low = pixels.amax(1, keepdim=True), pixels.amin(1, keepdim=True)
    chroma = high - low
    sextant = _sextant(pixels, high, chroma) + (turns.to(pixels.device, pixels.dtype) * 6).view(-1, 1, 1, 1)
    channels = []
    for offset in (5.0, 3.0, 1.0):
        position = torch.remainder(sextant + offset, 6.0)
        channels.append(high - chroma * torch.minimum(position, 4.0 - position).clamp(0.0, 1.0))
    return torch.cat(channels, 1)


def _sextant(pixels: Tensor, high: Tensor, chroma: Tensor) -> Tensor:
    """The hue in sixths of the circle, -1 to 5; 0 is red, 2 green, 4 blue."""
    red, green, blue = pixels.split(1, 1)
    whole = torch.where(chroma > 0, chroma, 1.0)
    from_blue = (red - green) / whole + 4.0
    from_green = torch.where(high == green, (blue - red) / whole + 2.0, from_blue)
    return torch.where(high == red, (green - blue) / whole, from_green)


def _mean(pixels: Float[Tensor, "batch 1 h w"]) -> Float[Tensor, "batch 1 1 1"]:
    # Sum whole numbers: the result does not depend on the order in which a device adds them.
    fixed = (pixels.double() * _FIXED).round().long()
    mean = fixed.sum((1, 2, 3), keepdim=True).double() * (1.0 / (_FIXED * pixels[0].numel()))
    return mean.to(pixels.dtype)


Images = Shaped[Tensor, "batch c h w"]


def auto_contrast(images: Images) -> Images:
    """Stretch each channel so that its darkest pixel is 0 and its lightest white; constant channels stay."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    if images.dtype != torch.uint8:
        return torch.where(high > low, (images - low) / torch.where(high > low, high - low, 1.0), images)
    span = (high.int() - low.int()).clamp(min=1)
    level = ((images.int() - low.int()) * 510 + span).div(2 * span, rounding_mode="floor")
    return torch.where(high > low, level.to(torch.uint8), images)


def equalize(images: Images) -> Images:
    """Equalize the histogram of each channel with 256 levels, as Pillow does."""
    flat = to_levels(images).flatten(2).flatten(0, 1).long()
    count = torch.zeros(len(flat), 256, dtype=torch.int64, device=flat.device).scatter_add_(
        1, flat, torch.ones_like(flat)
    )
    last = count.gather(1, flat.amax(1, keepdim=True))
    step = (flat.shape[1] - last).div(255, rounding_mode="floor")
    before = count.cumsum(1) - count
    spread = (before + step.div(2, rounding_mode="floor")).div(step.clamp(min=1), rounding_mode="floor").clamp(max=255)
    level = spread.gather(1, flat).view(images.shape)
    return torch.where((step > 0).view(*images.shape[:2], 1, 1), from_levels(level, images), images)


def posterize(images: Images, bits: int) -> Images:
    """Keep only the first `bits` bits of each byte; 8 bits is the identity."""
    return images if bits == 8 else from_levels(to_levels(images) & (256 - (1 << (8 - bits))), images)


def solarize(images: Images, strength: float) -> Images:
    """Invert pixels at or above ``256 * (1 - strength)`` (in bytes); a strength of 0 is the identity."""
    threshold = 256 * (1 - strength)
    if images.dtype == torch.uint8:
        return torch.where(images >= threshold, 255 - images, images)
    return torch.where(images * 255 >= threshold, 1 - images, images)


def adjust_sharpness(images: Images, factor: Tensor) -> Images:
    """Blend with the image smoothed by ``[[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13``; the border stays."""
    if min(images.shape[2:]) < 3:
        return images
    pixels, top = to_float(images)
    height, width = pixels.shape[2:]
    inner = pixels[:, :, 1:-1, 1:-1]
    total = inner * 4
    for down in range(3):
        for right in range(3):
            total = total + pixels[:, :, down : height - 2 + down, right : width - 2 + right]
    smooth = pixels.clone()
    smooth[:, :, 1:-1, 1:-1] = total * (1 / 13)
    return restore_dtype(blend(pixels, smooth, factor, top), images)


def to_levels(images: Images) -> Shaped[Tensor, "batch c h w"]:
    """Convert to bytes, with rounding."""
    return images if images.dtype == torch.uint8 else (images * 255).round().to(torch.uint8)


def from_levels(values: Tensor, images: Images) -> Images:
    """Convert levels from 0 to 255 to the dtype of `images`."""
    if images.dtype == torch.uint8:
        return values.to(torch.uint8)
    return (values.to(torch.promote_types(images.dtype, torch.float32)) * (1 / 255)).to(images.dtype)


@dataclass(frozen=True)
class ColorJitter:
    r"""Randomly change brightness, contrast, saturation and hue of images, in this order.

    The first three are blends :math:`f x + (1 - f) y`, with :math:`f \sim U(\max(0, 1 - a), 1 + a)`, with black, with
    the image's mean gray level, and with the grayscale image. Hue is rotated by a fraction :math:`U(-a, a)` of the
    color circle. Values are clamped to the range of pixels, and bytes are rounded once, at the end. Images are
    ``[batch, h, w]`` or ``[batch, c, h, w]`` with one channel or RGB: bytes, or floats from 0 to 1. Saturation and hue
    do not change images of one channel. A parameter of 0 skips its step.

    Attributes:
        brightness: Maximum distance of the factor from 1.
        contrast: Maximum distance of the factor from 1.
        saturation: Maximum distance of the factor from 1.
        hue: Maximum rotation, as a fraction of the color circle, at most 0.5.
        seed: Seed of the random factors.

    Raises:
        LimbeckError: If a parameter is negative, or `hue` is above 0.5.

    Example:
        >>> import torch
        >>> image, one = torch.full((1, 2, 2), 100, dtype=torch.uint8), torch.tensor([0])
        >>> ColorJitter()(image, one, one).equal(image), ColorJitter(brightness=0.5)(image, one, one).unique().numel()
        (True, 1)
    """

    brightness: Number = 0.0
    contrast: Number = 0.0
    saturation: Number = 0.0
    hue: Number = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        factors = {"brightness": self.brightness, "contrast": self.contrast, "saturation": self.saturation}
        check_number("ColorJitter", least=0, **factors)
        check_number("ColorJitter", least=0, most=0.5, hue=self.hue)

    @property
    def fingerprint(self) -> str:
        """Name, version and parameters."""
        return format_fingerprint("jitter/1", self)

    def amounts(self, id: Int[Tensor, " batch"], view: Int[Tensor, " batch"]) -> Float[Tensor, "batch 4"]:
        """The three factors and the hue rotation of each image, in float64."""
        draws = counter_uniform(id, view, seed=self.seed, draws=4, stream="jitter").double()
        for i, far in enumerate((self.brightness, self.contrast, self.saturation)):
            draws[:, i] = uniform(draws[:, i], max(0.0, 1.0 - far), 1.0 + far)
        draws[:, 3] = uniform(draws[:, 3], -self.hue, self.hue)
        return draws

    def __call__(
        self, inputs: Shaped[Tensor, " batch *image"], id: Int[Tensor, " batch"], view: Int[Tensor, " batch"]
    ) -> Shaped[Tensor, " batch *image"]:
        """Apply the color changes; shape and dtype stay the same.

        Raises:
            DataError: If the inputs are not gray or RGB images of bytes, or of floats from 0 to 1.
        """
        check_pixels(inputs, who="ColorJitter")
        bright, contrast, color, turn = self.amounts(id, view).unbind(1)
        pixels, top = to_float(inputs)
        pixels = adjust_brightness(pixels, bright, top) if self.brightness else pixels
        pixels = adjust_contrast(pixels, contrast, top) if self.contrast else pixels
        pixels = adjust_saturation(pixels, color, top) if self.saturation else pixels
        return restore_dtype(adjust_hue(pixels, turn) if self.hue else pixels, inputs)
