"""`Cutout`: covers a random square of each image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from limbeck.data.transform import check_images
from limbeck.data.transforms.random_draws import randint
from limbeck.data.transforms.validation import Number, check_fill, check_number, check_whole, format_fingerprint
from limbeck.errors import DataError
from limbeck.random_seeds import counter_uniform


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
        sides = []
        for draw, length in zip(draws.unbind(1), (height, width), strict=True):
            start = randint(draw, length)[:, None] - self.size // 2
            position = torch.arange(length, device=id.device)
            sides.append((position >= start) & (position < start + self.size))
        return sides[0][:, :, None] & sides[1][:, None, :]

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
