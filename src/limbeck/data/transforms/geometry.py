"""Transforms that move, crop, flip or cover pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from limbeck.data.transforms.common import (
    Number,
    box_mask,
    broadcast_per_image,
    check_fill,
    check_images,
    check_mean_exists,
    check_number,
    check_range,
    check_size,
    check_whole,
    format_fingerprint,
    height_and_width,
    randint,
    row_indices,
    uniform,
)
from limbeck.data.transforms.resampling import resize_boxes
from limbeck.errors import DataError, LimbeckError
from limbeck.random_seeds import counter_uniform

_TRIES = 10


@dataclass(frozen=True)
class RandomShift:
    """Shift images by a random whole number of pixels along each axis; empty areas become 0.

    ``out[y, x] = in[y - dy, x - dx]`` with dy and dx independent and uniform in ``-pixels..pixels``. View 0 is shifted
    too. ``pixels=0`` is the identity. Images are ``[batch, h, w]`` or ``[batch, c, h, w]``, of any number
    type.

    Attributes:
        pixels: Maximum shift along each axis, in pixels.
        seed: Seed of the random shifts.

    Raises:
        LimbeckError: If `pixels` is negative or not a whole number.

    Example:
        >>> image = torch.eye(3, dtype=torch.uint8)[None]
        >>> RandomShift(0)(image, torch.tensor([0]), torch.tensor([0])).equal(image)
        True
    """

    pixels: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("RandomShift", least=0, pixels=self.pixels)

    @property
    def fingerprint(self) -> str:
        """Name, version and parameters."""
        return format_fingerprint("shift/1", self)

    def offsets(self, id: Int[Tensor, " batch"], view: Int[Tensor, " batch"]) -> Int[Tensor, "batch 2"]:
        """The shift of each image (down, right), in pixels."""
        draws = counter_uniform(id, view, seed=self.seed, draws=2, stream="shift")
        return (draws * (2 * self.pixels + 1)).long() - self.pixels

    def __call__(
        self, inputs: Shaped[Tensor, " batch *image"], id: Int[Tensor, " batch"], view: Int[Tensor, " batch"]
    ) -> Shaped[Tensor, " batch *image"]:
        """Shift images; shape and dtype stay the same.

        Raises:
            DataError: If the inputs are not images with height and width last.
        """
        check_images(inputs, who="RandomShift")
        corners = self.pixels - self.offsets(id, view)
        return _take_windows(F.pad(inputs, (self.pixels,) * 4), corners, inputs.shape[-2:])


@dataclass(frozen=True)
class Crop:
    """Crop each padded image at a random position.

    All positions are equally likely. Images are ``[batch, h, w]`` or ``[batch, c, h, w]``, of any number type.
    ``Crop(padding=0)`` is the identity.

    Attributes:
        padding: Width of the border, in pixels.
        size: Height and width of the crop in pixels, or one number for both; None keeps the image size.
        fill: Value of the border.
        seed: Seed of the random positions.

    Raises:
        LimbeckError: If `padding` is negative or `size` not positive.

    Example:
        >>> images = torch.arange(2 * 32 * 32).view(2, 32, 32)
        >>> Crop(padding=4, size=24)(images, torch.tensor([0, 1]), torch.tensor([0, 0])).shape
        torch.Size([2, 24, 24])
    """

    padding: int = 4
    size: int | tuple[int, int] | None = None
    fill: Number = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("Crop", least=0, padding=self.padding)
        check_size("Crop", self.size)
        check_number("Crop", fill=self.fill)

    @property
    def fingerprint(self) -> str:
        """Name, version and parameters."""
        return format_fingerprint("crop/1", self)

    def corners(
        self, id: Int[Tensor, " batch"], view: Int[Tensor, " batch"], *, counts: tuple[int, int]
    ) -> Int[Tensor, "batch 2"]:
        """The top left corner (row, column) of each crop; `counts` is the number of positions along each axis."""
        draws = counter_uniform(id, view, seed=self.seed, draws=2, stream="crop")
        return torch.stack([randint(draw, count) for draw, count in zip(draws.unbind(1), counts, strict=True)], 1)

    def __call__(
        self, inputs: Shaped[Tensor, " batch *image"], id: Int[Tensor, " batch"], view: Int[Tensor, " batch"]
    ) -> Shaped[Tensor, " batch *part"]:
        """Crop images; the dtype stays the same.

        Raises:
            DataError: If the inputs are not images with height and width last, the crop is larger than the padded
                images, or `fill` is not a valid pixel value.
        """
        check_images(inputs, who="Crop")
        check_fill("Crop", self.fill, inputs)
        height, width = height_and_width(self.size, inputs)
        down, right = (
            n + 2 * self.padding - own + 1 for n, own in zip(inputs.shape[-2:], (height, width), strict=True)
        )
        if min(down, right) < 1:
            raise DataError(
                f"Crop(size={self.size}, padding={self.padding}) is larger than the padded images of "
                f"{inputs.shape[-2]}x{inputs.shape[-1]} pixels. Use a smaller size or more padding."
            )
        wide = F.pad(inputs, (self.padding,) * 4, value=self.fill) if self.padding else inputs
        return _take_windows(wide, self.corners(id, view, counts=(down, right)), (height, width))


@dataclass(frozen=True)
class ResizedCrop:
    r"""Crop a box of random area and aspect ratio from each image and resize it (the Inception crop).

    The box has the share :math:`a` of the image's area, :math:`a \sim U(scale)`, and the aspect ratio :math:`r` (width
    over height), :math:`\log r \sim U(\log ratio)`. The first of ten draws that fits is used, otherwise the largest
    centered box with an aspect ratio in `ratio`. Resizing is bilinear between the four nearest pixels, with weights of
    11 bits and without antialiasing, so images should not be much larger than `size`. Images are ``[batch, h, w]`` or
    ``[batch, c, h, w]``, bytes or floats. ``ResizedCrop(scale=(1, 1), ratio=(1, 1))`` is the identity for square
    images.

    Attributes:
        size: Height and width of the result in pixels, or one number for both; None keeps the image size.
        scale: Minimum and maximum share of the image's area.
        ratio: Minimum and maximum aspect ratio (width over height).
        seed: Seed of the random boxes.

    Raises:
        LimbeckError: If `size` is not positive, or `scale` (at most 1) or `ratio` is not a pair of increasing positive
            numbers.

    Example:
        >>> images = torch.zeros(2, 3, 32, 48, dtype=torch.uint8)
        >>> ResizedCrop(24)(images, torch.tensor([0, 1]), torch.tensor([0, 0])).shape
        torch.Size([2, 3, 24, 24])

    Source: Szegedy et al., Going Deeper with Convolutions, 2014, arXiv:1409.4842, section 6.
    """

    size: int | tuple[int, int] | None = None
    scale: tuple[Number, Number] = (0.08, 1.0)
    ratio: tuple[Number, Number] = (3 / 4, 4 / 3)
    seed: int = 0

    def __post_init__(self) -> None:
        check_size("ResizedCrop", self.size)
        check_range("ResizedCrop", above=0, most=1, scale=self.scale)
        check_range("ResizedCrop", above=0, ratio=self.ratio)

    @property
    def fingerprint(self) -> str:
        """Name, version and parameters."""
        return format_fingerprint("resized_crop/1", self)

    def boxes(
        self, id: Int[Tensor, " batch"], view: Int[Tensor, " batch"], *, height: int, width: int
    ) -> Int[Tensor, "batch 4"]:
        """The box of each image: top, left, height, width, for images of `height` by `width` pixels."""
        # On the CPU, because devices may differ in the last digit of exp().
        draws = counter_uniform(id, view, seed=self.seed, draws=2 * _TRIES + 2, stream="resized crop").cpu()
        area = uniform(draws[:, :_TRIES], *self.scale) * (height * width)
        shape = uniform(draws[:, _TRIES:-2], math.log(self.ratio[0]), math.log(self.ratio[1])).exp()
        tall, wide = (area / shape).sqrt().round().long(), (area * shape).sqrt().round().long()
        fits = (tall >= 1) & (wide >= 1) & (tall <= height) & (wide <= width)
        first = torch.where(fits, torch.arange(_TRIES), _TRIES).amin(1)
        fallen = first == _TRIES
        row, first = row_indices(first), first.clamp(max=_TRIES - 1)
        middle = _middle(height, width, self.ratio)
        tall = torch.where(fallen, middle[0], tall[row, first])
        wide = torch.where(fallen, middle[1], wide[row, first])
        top = torch.where(fallen, (height - middle[0]) // 2, randint(draws[:, -2], height - tall + 1))
        left_edge = torch.where(fallen, (width - middle[1]) // 2, randint(draws[:, -1], width - wide + 1))
        return torch.stack([top, left_edge, tall, wide], 1)

    def __call__(
        self, inputs: Shaped[Tensor, " batch *image"], id: Int[Tensor, " batch"], view: Int[Tensor, " batch"]
    ) -> Shaped[Tensor, " batch *part"]:
        """Crop and resize images; the dtype stays the same.

        Raises:
            DataError: If the inputs are not images of bytes or floats with height and width last.
        """
        check_images(inputs, who="ResizedCrop")
        check_mean_exists(inputs, who="ResizedCrop")
        height, width = inputs.shape[-2:]
        boxes = self.boxes(id, view, height=height, width=width).to(inputs.device)
        return resize_boxes(inputs, boxes, height_and_width(self.size, inputs))


def _take_windows(
    images: Shaped[Tensor, " batch *image"], corners: Int[Tensor, "batch 2"], size: Sequence[int]
) -> Shaped[Tensor, " batch *part"]:
    """The window of `size` of each image, with its top left corner at `corners`."""
    # unfold() gives all windows without a copy; one indexing step then copies one window per image.
    windows = images.unfold(-2, size[0], 1).unfold(-2, size[1], 1)
    rows, (top, left_edge) = row_indices(images), corners.to(images.device).unbind(1)
    return windows[rows, top, left_edge] if images.ndim == 3 else windows[rows, :, top, left_edge]


def _middle(height: int, width: int, ratio: tuple[Number, Number]) -> tuple[int, int]:
    """Height and width of the largest box with an aspect ratio in `ratio`."""
    if width < ratio[0] * height:
        return max(round(width / ratio[0]), 1), width
    if width > ratio[1] * height:
        return height, max(round(height * ratio[1]), 1)
    return height, width


@dataclass(frozen=True)
class Flip:
    """Flip random images horizontally or vertically.

    Images are ``[batch, h, w]`` or ``[batch, c, h, w]``, of any number type.

    Attributes:
        probability: Probability of a flip, from 0 to 1.
        vertical: Flip vertically instead of horizontally.
        seed: Seed of the random choices.

    Raises:
        LimbeckError: If `probability` is not from 0 to 1, or `vertical` is not a bool.

    Example:
        >>> image, view = torch.tensor([[[1, 2]]]), torch.tensor([0])
        >>> Flip(1.0)(image, torch.tensor([7]), view).tolist()
        [[[2, 1]]]
    """

    probability: Number = 0.5
    vertical: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("Flip", least=0, most=1, probability=self.probability)
        if not isinstance(self.vertical, bool):
            raise LimbeckError(f"Flip(vertical={self.vertical!r}): vertical must be true or false.")

    @property
    def fingerprint(self) -> str:
        """Name, version and parameters."""
        return format_fingerprint("flip/1", self)

    def flipped(self, id: Int[Tensor, " batch"], view: Int[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        """Which images are flipped."""
        stream = "flip vertical" if self.vertical else "mirror"
        return counter_uniform(id, view, seed=self.seed, draws=1, stream=stream).squeeze(1) < self.probability

    def __call__(
        self, inputs: Shaped[Tensor, " batch *image"], id: Int[Tensor, " batch"], view: Int[Tensor, " batch"]
    ) -> Shaped[Tensor, " batch *image"]:
        """Flip images; shape and dtype stay the same.

        Raises:
            DataError: If the inputs are not images with height and width last.
        """
        check_images(inputs, who="Flip")
        return torch.where(
            broadcast_per_image(self.flipped(id, view), inputs), inputs.flip(-2 if self.vertical else -1), inputs
        )


@dataclass(frozen=True)
class Cutout:
    """Cover a random square of each image.

    The center of the square is uniform over all pixels, so part of the square may be outside of the image. Images are
    ``[batch, h, w]`` or ``[batch, c, h, w]``, of any number type. ``Cutout(0)`` is the identity.

    Attributes:
        size: Side of the square, in pixels.
        fill: Value of the square.
        seed: Seed of the random positions.

    Raises:
        LimbeckError: If `size` is negative.

    Example:
        >>> hidden = Cutout(2)(torch.ones(1, 8, 8), torch.tensor([3]), torch.tensor([0]))
        >>> int((hidden == 0).sum())
        4

    Source: DeVries and Taylor, 2017, arXiv:1708.04552.
    """

    size: int
    fill: Number = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("Cutout", least=0, size=self.size)
        check_number("Cutout", fill=self.fill)

    @property
    def fingerprint(self) -> str:
        """Name, version and parameters."""
        return format_fingerprint("cut_out/1", self)

    def covered(
        self, id: Int[Tensor, " batch"], view: Int[Tensor, " batch"], *, height: int, width: int
    ) -> Bool[Tensor, "batch h w"]:
        """Mask of the covered pixels of each image."""
        draws = counter_uniform(id, view, seed=self.seed, draws=2, stream="cut out")
        return box_mask(draws, (height, width), (self.size, self.size))

    def __call__(
        self, inputs: Shaped[Tensor, " batch *image"], id: Int[Tensor, " batch"], view: Int[Tensor, " batch"]
    ) -> Shaped[Tensor, " batch *image"]:
        """Cover squares; shape and dtype stay the same.

        Raises:
            DataError: If the inputs are not images with height and width last, the square is larger than the images,
                or `fill` is not a valid pixel value.
        """
        check_images(inputs, who="Cutout")
        check_fill("Cutout", self.fill, inputs)
        height, width = inputs.shape[-2:]
        if self.size > min(height, width):
            raise DataError(f"Cutout(size={self.size}) is larger than the images of {height}x{width} pixels.")
        hidden = self.covered(id, view, height=height, width=width).to(inputs.device)
        return inputs.masked_fill(hidden if inputs.ndim == 3 else hidden.unsqueeze(1), self.fill)
