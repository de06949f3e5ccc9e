"""How do images go bad: noise, blur, light, coarse pixels, something in the way?"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from limbeck.errors import LimbeckError, unknown
from limbeck.functional.counter import counter_uniform
from limbeck.sources.augment.check import check_pixels
from limbeck.sources.augment.colour import closed, opened

Images = Float[Tensor, "batch c h w"]
Draw = Callable[[int], Float[Tensor, "batch draws"]]
"""So many uniform numbers for each image."""


class Corruption(NamedTuple):
    """One way to go bad.

    Attributes:
        function: Images from 0 to 1, a strength and random numbers -> images; what leaves 0 to 1 is cut off.
        strengths: For severities 1 to 5.
    """

    function: Callable[[Images, float, Draw], Images]
    strengths: tuple[float, float, float, float, float]


def corrupt(
    images: Shaped[Tensor, " batch *image"],
    name: str,
    severity: int,
    *,
    id: Int[Tensor, " batch"] | None = None,
    seed: int = 0,
) -> Shaped[Tensor, " batch *image"]:
    """Images gone bad in one way: a pure function of the images, their ids, the severity and the seed.

    Args:
        images: Bytes, or floats from 0 to 1: ``[batch, h, w]`` or ``[batch, c, h, w]`` with one channel or three.
        name: One of `CORRUPTIONS`.
        severity: From 1, mild, to 5. Noise and place are the same at all severities, only stronger.
        id: Which examples these are; their noise depends on it alone. Their places in the batch where None.
        seed: Another gives other noise.

    Returns:
        Images of the same shape and type.

    Raises:
        UnknownNameError: If there is no such corruption; the nearest is named.
        LimbeckError: If `severity` is not 1, 2, 3, 4 or 5.
        DataError: If these are no images.

    Example:
        >>> corrupt(torch.full((1, 2, 2), 100, dtype=torch.uint8), "brightness", 3).flatten().tolist()
        [138, 138, 138, 138]

    Source: Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations,
    2019, arXiv:1903.12261. Strengths are those of their CIFAR-10-C, made for 32 pixels a side. Here brightness is added
    to every channel (there to the value in HSV), and occlusion is our own.
    """
    if name not in CORRUPTIONS:
        raise unknown("corruption", name, CORRUPTIONS)
    if severity not in (1, 2, 3, 4, 5):
        raise LimbeckError(f"corrupt(severity={severity!r}): severities are 1, 2, 3, 4 and 5.")
    check_pixels(images, who=f"The corruption {name}")
    who = torch.arange(len(images)) if id is None else id

    def draw(count: int) -> Tensor:
        same = torch.zeros_like(who)
        return counter_uniform(who, same, seed=seed, draws=count, stream=f"corruption/{name}").to(images.device)

    function, strengths = CORRUPTIONS[name]
    pixels, top = opened(images)
    return closed(function(pixels / top, strengths[severity - 1], draw).clamp(0.0, 1.0) * top, images)


def _gaussian_noise(images: Images, strength: float, draw: Draw) -> Images:
    return images + strength * _normal(images, draw)


def _speckle_noise(images: Images, strength: float, draw: Draw) -> Images:
    return images + images * strength * _normal(images, draw)


def _impulse_noise(images: Images, strength: float, draw: Draw) -> Images:
    number = draw(images[0].numel()).view(images.shape)
    dark = torch.where(number < strength / 2, 0.0, images)
    return torch.where(number >= 1 - strength / 2, 1.0, dark)


def _gaussian_blur(images: Images, strength: float, draw: Draw) -> Images:
    # The width is meant for 32 pixels; on larger images it grows with them, or nobody would see it.
    sigma = strength * max(1.0, min(images.shape[2:]) / 32)
    reach = int(4 * sigma + 0.5)
    bell = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=images.device) / sigma) ** 2).to(images.dtype)
    bell = (bell / bell.sum()).expand(images.shape[1], 1, 1, -1)
    padded = F.pad(images, (reach, reach, reach, reach), mode="replicate")
    across = F.conv2d(padded, bell, groups=images.shape[1])
    return F.conv2d(across, bell.transpose(2, 3), groups=images.shape[1])


def _contrast(images: Images, strength: float, draw: Draw) -> Images:
    mean = images.mean((2, 3), keepdim=True)
    return (images - mean) * strength + mean


def _brightness(images: Images, strength: float, draw: Draw) -> Images:
    return images + strength


def _pixelate(images: Images, strength: float, draw: Draw) -> Images:
    height, width = (_cells(side, strength).to(images) for side in images.shape[2:])
    return height @ images @ width.T


def _cells(side: int, share: float) -> Float[Tensor, "side side"]:
    """Row x takes the mean over the pixels of x's cell, of ``side * share`` cells of about the same width."""
    cell = ((torch.arange(side) + 0.5) * (max(1, int(side * share)) / side)).long()
    together = (cell[:, None] == cell[None, :]).double()
    return together / together.sum(1, keepdim=True)


def _occlusion(images: Images, strength: float, draw: Draw) -> Images:
    """A grey square, its side a part of the shorter side, somewhere in the image."""
    height, width = images.shape[2:]
    side = max(1, round(strength * min(height, width)))
    place = draw(2).double()
    top, left = (place[:, 0] * (height - side + 1)).long(), (place[:, 1] * (width - side + 1)).long()
    down, right = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    rows = (down >= top[:, None]) & (down < top[:, None] + side)
    columns = (right >= left[:, None]) & (right < left[:, None] + side)
    return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], 0.5, images)


def _normal(images: Images, draw: Draw) -> Images:
    # Half a step up, so that no number is 0, of which the quantile is infinite.
    uniform = draw(images[0].numel()).double() + 2.0**-25
    return torch.special.ndtri(uniform).to(images.dtype).view(images.shape)


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "speckle_noise": Corruption(_speckle_noise, (0.06, 0.10, 0.12, 0.16, 0.20)),
    "impulse_noise": Corruption(_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "gaussian_blur": Corruption(_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "contrast": Corruption(_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "brightness": Corruption(_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "pixelate": Corruption(_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "occlusion": Corruption(_occlusion, (0.15, 0.2, 0.25, 0.3, 0.4)),
}
"""Every corruption by name."""
