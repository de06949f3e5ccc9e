"""What does an image look like in another light?"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int, Shaped
from torch import Tensor

from limbeck.sources.augment.check import Number, check_number, check_pixels, parameters
from limbeck.sources.augment.colour import brightened, closed, contrasted, opened, rotated_hue, saturated
from limbeck.sources.augment.draw import between
from limbeck.sources.counter import counter_uniform


@dataclass(frozen=True)
class Jitter:
    r"""Images whose brightness, contrast, saturation and hue are moved, in this order, each by a random amount.

    The first three are blends :math:`f x + (1 - f) y`, with :math:`f \sim U(\max(0, 1 - a), 1 + a)`, with black, with
    the image's mean in grey, and with the image in grey; hue is turned by a part :math:`U(-a, a)` of its circle. What
    leaves the range of pixels is cut off; bytes are rounded once, at the end. Images are ``[batch, h, w]`` or
    ``[batch, c, h, w]`` with one channel or red, green, blue: bytes, or floats from 0 to 1. An image of one channel has
    no colour, so the last two leave it as it is; and what is 0 is left out.

    Attributes:
        brightness: How far the factor goes from 1.
        contrast: How far the factor goes from 1.
        saturation: How far the factor goes from 1.
        hue: The greatest part of the circle, at most 0.5.
        seed: Another seed gives other amounts.

    Raises:
        LimbeckError: If one of them is negative, or `hue` above 0.5.

    Example:
        >>> import torch
        >>> image, one = torch.full((1, 2, 2), 100, dtype=torch.uint8), torch.tensor([0])
        >>> Jitter()(image, one, one).equal(image), Jitter(brightness=0.5)(image, one, one).unique().numel()
        (True, 1)
    """

    brightness: Number = 0.0
    contrast: Number = 0.0
    saturation: Number = 0.0
    hue: Number = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        factors = {"brightness": self.brightness, "contrast": self.contrast, "saturation": self.saturation}
        check_number("Jitter", least=0, **factors)
        check_number("Jitter", least=0, most=0.5, hue=self.hue)

    @property
    def fingerprint(self) -> str:
        """Name, version and parameters."""
        return parameters("jitter/1", self)

    def amounts(self, id: Int[Tensor, " batch"], view: Int[Tensor, " batch"]) -> Float[Tensor, "batch 4"]:
        """The three factors and the turn of each image, in float64."""
        draws = counter_uniform(id, view, seed=self.seed, draws=4, stream="jitter").double()
        for place, far in enumerate((self.brightness, self.contrast, self.saturation)):
            draws[:, place] = between(draws[:, place], max(0.0, 1.0 - far), 1.0 + far)
        draws[:, 3] = between(draws[:, 3], -self.hue, self.hue)
        return draws

    def __call__(
        self, inputs: Shaped[Tensor, " batch *image"], id: Int[Tensor, " batch"], view: Int[Tensor, " batch"]
    ) -> Shaped[Tensor, " batch *image"]:
        """The images, of the same shape and type.

        Raises:
            DataError: If the inputs are not images of bytes, or of floats from 0 to 1, in grey or in colour.
        """
        check_pixels(inputs, who="Jitter")
        bright, contrast, colour, turn = self.amounts(id, view).unbind(1)
        pixels, top = opened(inputs)
        pixels = brightened(pixels, bright, top) if self.brightness else pixels
        pixels = contrasted(pixels, contrast, top) if self.contrast else pixels
        pixels = saturated(pixels, colour, top) if self.saturation else pixels
        return closed(rotated_hue(pixels, turn) if self.hue else pixels, inputs)
