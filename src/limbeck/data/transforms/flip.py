"""`Flip`: an image mirrored at random."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from limbeck.data.transform import check_images
from limbeck.data.transforms.random_draws import broadcast_per_image
from limbeck.data.transforms.validation import Number, check_number, format_fingerprint
from limbeck.errors import LimbeckError
from limbeck.functional.counter_rng import counter_uniform


@dataclass(frozen=True)
class Flip:
    """Images of which some are swapped left for right, or upside down.

    Images are ``[batch, h, w]`` or ``[batch, c, h, w]``, of any number type.

    Attributes:
        probability: The share that is swapped, from 0 (none) to 1 (all).
        vertical: Upside down, in place of left for right.
        seed: Another seed swaps others.

    Raises:
        LimbeckError: If `probability` is not from 0 to 1, or `vertical` neither true nor false.

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
            raise LimbeckError(f"Flip(vertical={self.vertical!r}): vertical is true or false.")

    @property
    def fingerprint(self) -> str:
        """Name, version and parameters."""
        return format_fingerprint("flip/1", self)

    def flipped(self, id: Int[Tensor, " batch"], view: Int[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        """Which images are swapped."""
        stream = "flip vertical" if self.vertical else "mirror"
        return counter_uniform(id, view, seed=self.seed, draws=1, stream=stream).squeeze(1) < self.probability

    def __call__(
        self, inputs: Shaped[Tensor, " batch *image"], id: Int[Tensor, " batch"], view: Int[Tensor, " batch"]
    ) -> Shaped[Tensor, " batch *image"]:
        """The images, of the same shape and type.

        Raises:
            DataError: If the inputs are not images with height and width last.
        """
        check_images(inputs, who="Flip")
        return torch.where(
            broadcast_per_image(self.flipped(id, view), inputs), inputs.flip(-2 if self.vertical else -1), inputs
        )
