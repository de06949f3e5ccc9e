"""What do images look like in a mirror, and after several augmentations in turn?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.signal import Inputs
from limbeck.sources.counter import counter_uniform
from limbeck.sources.view import View, check_images


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


@dataclass(frozen=True, init=False)
class InTurn:
    """Several augmentations, each of what the one before made.

    Args:
        *views: At least one.

    Raises:
        LimbeckError: If there is none, or one is no view.

    Example:
        >>> from limbeck.sources.view import Shift
        >>> InTurn(Shift(4), Mirror()).fingerprint
        'shift/1 pixels=4 seed=0 > mirror/1 seed=0'
    """

    views: tuple[View, ...]

    def __init__(self, *views: Any) -> None:
        for one in views:
            if isinstance(one, type):
                raise LimbeckError(f"InTurn holds {one.__name__}, a class, not a view; type {one.__name__}().")
            if not isinstance(one, View):
                raise LimbeckError(f"A view has a fingerprint and is called with (inputs, id, view); got {one!r}.")
        if not views:
            raise LimbeckError("InTurn needs at least one view: InTurn(Shift(4), Mirror()).")
        object.__setattr__(self, "views", views)

    @property
    def fingerprint(self) -> str:
        """Those of all, in order."""
        return " > ".join(one.fingerprint for one in self.views)

    def __call__(self, inputs: Inputs, id: Tensor, view: Tensor) -> Inputs:
        """The inputs after the last."""
        for one in self.views:
            inputs = one(inputs, id, view)
        return inputs
