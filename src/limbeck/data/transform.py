"""`Transform`: protocol of augmentations that depend on example id and view number; and `RandomShift`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from limbeck.batch import Inputs
from limbeck.errors import DataError, LimbeckError
from limbeck.random_seeds import counter_uniform

__all__ = ["RandomShift", "Transform", "counter_uniform"]


@runtime_checkable
class Transform(Protocol):
    """An augmentation: a pure function of the inputs, the example ids and the view numbers.

    The same (id, view) always gives the same result, in any batch, process or run. So teacher outputs can be cached for
    each view, and a resumed run continues with the same inputs.
    """

    @property
    def fingerprint(self) -> str:
        """Name, version and parameters: transforms with the same fingerprint give the same results."""
        ...

    def __call__(self, inputs: Inputs, id: Tensor, view: Tensor) -> Inputs:
        """Return view number ``view[i]`` of example ``id[i]`` for each row ``i``."""
        ...


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
        if isinstance(self.pixels, bool) or not isinstance(self.pixels, int):
            raise LimbeckError(f"RandomShift(pixels={self.pixels!r}): pixels must be a whole number, 0 or more.")
        if self.pixels < 0:
            raise LimbeckError(
                f"RandomShift(pixels={self.pixels}): pixels must be 0 or more, for example RandomShift(2)."
            )

    @property
    def fingerprint(self) -> str:
        """Name, version and parameters."""
        return f"shift/1 pixels={self.pixels} seed={self.seed}"

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
        height, width = inputs.shape[-2:]
        wide = F.pad(inputs, (self.pixels,) * 4)
        # unfold() gives all windows without a copy; one indexing step then copies one window per image.
        windows = wide.unfold(-2, height, 1).unfold(-2, width, 1)
        rows = torch.arange(len(inputs), device=inputs.device)
        down, right = (self.pixels - self.offsets(id, view)).to(inputs.device).unbind(1)
        if inputs.ndim == 3:
            return windows[rows, down, right]
        return windows[rows, :, down, right]


def check_transform(transform: Any, *, who: str) -> None:
    """Check that an object is a transform.

    Raises:
        LimbeckError: If it is a class, a mix, or neither a transform nor a mix.
    """
    if isinstance(transform, type):
        name = transform.__name__
        raise LimbeckError(f"{who}: {name} is a class; create an instance: {name}().")
    if hasattr(transform, "blend"):
        raise LimbeckError(f"{who}: {transform!r} mixes two examples; pass it as mix={transform!r}.")
    if not isinstance(transform, Transform):
        raise LimbeckError(
            f"{who}: a transform has a fingerprint and is called with (inputs, id, view); got {transform!r}."
        )


def check_images(inputs: Any, *, who: str) -> None:
    """Check that inputs are images with height and width last."""
    shape: Any = list(inputs.shape) if isinstance(inputs, Tensor) else f"a {type(inputs).__name__}"
    if not isinstance(inputs, Tensor) or inputs.ndim not in (3, 4):
        raise DataError(f"{who} needs images [batch, h, w] or [batch, c, h, w]; got {shape}.")
    if inputs.ndim == 4 and shape[-1] in (1, 3, 4) and shape[1] not in (1, 3, 4):
        raise DataError(
            f"{who} needs channels before height and width, but {shape} looks like [batch, h, w, c]. "
            "Convert the images with x.transpose(0, 3, 1, 2)."
        )
