"""`RandAugment`: applies random operations to each image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from limbeck.data.transforms.color import (
    adjust_brightness,
    adjust_contrast,
    adjust_saturation,
    adjust_sharpness,
    auto_contrast,
    equalize,
    posterize,
    restore_dtype,
    solarize,
    to_float,
)
from limbeck.data.transforms.common import Number, check_number, check_pixels, check_whole, format_fingerprint, randint
from limbeck.data.transforms.resampling import Matrix, rotation_matrix, warp
from limbeck.random_seeds import counter_uniform

Images = Shaped[Tensor, "batch c h w"]
Operation = Callable[[Tensor, Tensor, float], Tensor]
"""Arguments: images ``[batch, c, h, w]``, the direction of each (True is up), and the strength from 0 to 1."""

_MOST = 30


@dataclass(frozen=True)
class RandAugment:
    """Apply `n` random operations to each image, each drawn uniformly from fourteen.

    The operations are identity, auto-contrast, equalize, rotate (30 degrees), solarize, color, posterize (to 4 bits),
    contrast, brightness, sharpness (factors 0.1 and 1.9), shear x and y (0.3), translate x and y (150/331 of the side).
    The values in brackets are those at magnitude 30; smaller magnitudes are proportional. Operations with two
    directions choose one at random. At magnitude 0 only auto-contrast and equalize change the image. Geometric
    operations use the nearest pixel, and empty areas become black. Images are ``[batch, h, w]`` or
    ``[batch, c, h, w]`` with one channel or RGB: bytes, or floats from 0 to 1 (equalize and posterize reduce them to
    256 levels).

    Attributes:
        n: Number of operations per image.
        magnitude: Strength of the operations, from 0 to 30.
        seed: Seed of the random operations.

    Raises:
        LimbeckError: If `n` is negative, or `magnitude` is not from 0 to 30.

    Example:
        >>> images = torch.arange(2 * 64, dtype=torch.uint8).view(2, 8, 8)
        >>> RandAugment(n=2, magnitude=9)(images, torch.tensor([0, 1]), torch.tensor([0, 0])).shape
        torch.Size([2, 8, 8])

    Source: Cubuk, Zoph, Shlens and Le, 2019, arXiv:1909.13719; the magnitudes are torchvision's.
    """

    n: int = 2
    magnitude: Number = 9.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("RandAugment", least=0, n=self.n)
        check_number("RandAugment", least=0, most=_MOST, magnitude=self.magnitude)

    @property
    def fingerprint(self) -> str:
        """Name, version and parameters."""
        return format_fingerprint("rand_augment/1", self)

    def draw_operations(
        self, id: Int[Tensor, " batch"], view: Int[Tensor, " batch"]
    ) -> tuple[Int[Tensor, "batch n"], Bool[Tensor, "batch n"]]:
        """The operations of each image, as indices into `OPERATIONS`, and their directions (True is up)."""
        draws = counter_uniform(id, view, seed=self.seed, draws=2 * self.n, stream="rand augment")
        return randint(draws[:, : self.n], len(OPERATIONS)), draws[:, self.n :] < 0.5

    def __call__(
        self, inputs: Shaped[Tensor, " batch *image"], id: Int[Tensor, " batch"], view: Int[Tensor, " batch"]
    ) -> Shaped[Tensor, " batch *image"]:
        """Apply the operations; shape and dtype stay the same.

        Raises:
            DataError: If the inputs are not gray or RGB images of bytes, or of floats from 0 to 1.
        """
        check_pixels(inputs, who="RandAugment")
        images = inputs.clone() if inputs.ndim == 4 else inputs.unsqueeze(1).clone()
        which, up = (draws.cpu() for draws in self.draw_operations(id, view))
        for step in range(self.n):
            # Group images by operation: fourteen calls for any batch size.
            for number, operation in enumerate(OPERATIONS.values()):
                rows = (which[:, step] == number).nonzero()[:, 0]
                if len(rows):
                    there = rows.to(images.device)
                    images[there] = operation(images[there], up[rows, step], self.magnitude / _MOST)
        return images.view(inputs.shape)


def _factor(up: Tensor, strength: float) -> Tensor:
    """The blend factor: above 1 for up, below 1 for down."""
    far = 0.9 * strength
    return torch.where(up, 1.0 + far, 1.0 - far)


def _identity(images: Images, up: Tensor, strength: float) -> Images:
    del up, strength
    return images


def _auto_contrast(images: Images, up: Tensor, strength: float) -> Images:
    del up, strength
    return auto_contrast(images)


def _equalize(images: Images, up: Tensor, strength: float) -> Images:
    del up, strength
    return equalize(images)


def _rotate(images: Images, up: Tensor, strength: float) -> Images:
    return warp(images, up, rotation_matrix(30 * strength), rotation_matrix(-30 * strength))


def _solarize(images: Images, up: Tensor, strength: float) -> Images:
    del up
    return solarize(images, strength)


def _color(images: Images, up: Tensor, strength: float) -> Images:
    pixels, top = to_float(images)
    return restore_dtype(adjust_saturation(pixels, _factor(up, strength), top), images)


def _posterize(images: Images, up: Tensor, strength: float) -> Images:
    del up
    return posterize(images, 8 - round(4 * strength))


def _contrast(images: Images, up: Tensor, strength: float) -> Images:
    pixels, top = to_float(images)
    return restore_dtype(adjust_contrast(pixels, _factor(up, strength), top), images)


def _brightness(images: Images, up: Tensor, strength: float) -> Images:
    pixels, top = to_float(images)
    return restore_dtype(adjust_brightness(pixels, _factor(up, strength), top), images)


def _sharpness(images: Images, up: Tensor, strength: float) -> Images:
    return adjust_sharpness(images, _factor(up, strength))


def _shear_x(images: Images, up: Tensor, strength: float) -> Images:
    return warp(images, up, Matrix(xy=0.3 * strength), Matrix(xy=-0.3 * strength))


def _shear_y(images: Images, up: Tensor, strength: float) -> Images:
    return warp(images, up, Matrix(yx=0.3 * strength), Matrix(yx=-0.3 * strength))


def _translate_x(images: Images, up: Tensor, strength: float) -> Images:
    far = int(150 / 331 * images.shape[3] * strength)
    return warp(images, up, Matrix(right=-far), Matrix(right=far))


def _translate_y(images: Images, up: Tensor, strength: float) -> Images:
    far = int(150 / 331 * images.shape[2] * strength)
    return warp(images, up, Matrix(down=-far), Matrix(down=far))


OPERATIONS: MappingProxyType[str, Operation] = MappingProxyType(
    {
        "identity": _identity,
        "auto-contrast": _auto_contrast,
        "equalize": _equalize,
        "rotate": _rotate,
        "solarize": _solarize,
        "color": _color,
        "posterize": _posterize,
        "contrast": _contrast,
        "brightness": _brightness,
        "sharpness": _sharpness,
        "shear x": _shear_x,
        "shear y": _shear_y,
        "translate x": _translate_x,
        "translate y": _translate_y,
    }
)
"""The operations by name; `draw_operations` returns indices in this order."""
