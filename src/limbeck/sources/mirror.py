"""What do images look like in a mirror, every other one of them?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from limbeck.sources.counter import counter_uniform
from limbeck.sources.view import check_images


@dataclass(frozen=True)
class Mirror:
    """Images of which every other one, on average, is swapped left for right.

    Images are ``[batch, h, w]`` or ``[batch, c, h, w]``, of any number type.

    Attributes:
        seed: Another seed mirrors others.

    Example:
        >>> image = torch.tensor([[[1, 2]]])
        >>> [Mirror()(image, torch.tensor([0]), torch.tensor([view])).tolist() for view in range(3)]
        [[[[1, 2]]], [[[2, 1]]], [[[2, 1]]]]
    """

    seed: int = 0

    @property
    def fingerprint(self) -> str:
        """Name, version and seed."""
        return f"mirror/1 seed={self.seed}"

    def mirrored(self, id: Int[Tensor, " batch"], view: Int[Tensor, " batch"]) -> Bool[Tensor, " batch"]:
        """Which images are swapped."""
        return counter_uniform(id, view, seed=self.seed, draws=1, stream="mirror").squeeze(1) < 0.5

    def __call__(
        self, inputs: Shaped[Tensor, " batch *image"], id: Int[Tensor, " batch"], view: Int[Tensor, " batch"]
    ) -> Shaped[Tensor, " batch *image"]:
        """The images, of the same shape and type.

        Raises:
            DataError: If the inputs are not images with height and width last.
        """
        check_images(inputs, who="Mirror")
        swapped = self.mirrored(id, view).to(inputs.device).view(-1, *[1] * (inputs.ndim - 1))
        return torch.where(swapped, inputs.flip(-1), inputs)
