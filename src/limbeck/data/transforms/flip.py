"""`Flip`: flips images at random."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from limbeck.data.transform import check_images
from limbeck.data.transforms.random_draws import broadcast_per_image
from limbeck.data.transforms.validation import Number, check_number, format_fingerprint
from limbeck.errors import LimbeckError
from limbeck.random_seeds import counter_uniform


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
