"""`Transform`: an augmented view of an example, by its id and view number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from limbeck.batch import Inputs
from limbeck.errors import DataError, LimbeckError
from limbeck.functional.counter_rng import counter_uniform

__all__ = ["RandomShift", "Transform", "counter_uniform"]


@runtime_checkable
class Transform(Protocol):
    """An augmentation: a pure function of the inputs, the examples' ids and the number of the view.

    The same (id, view) always gives the same inputs, whatever the batch, the process or the moment, so that a teacher's
    answer can be stored for a view and a resumed run sees what the interrupted one would have seen.
    """

    @property
    def fingerprint(self) -> str:
        """Name, version and parameters: two views with the same fingerprint give the same inputs."""
        ...

    def __call__(self, inputs: Inputs, id: Tensor, view: Tensor) -> Inputs:
        """The inputs of view number ``view[i]`` of example ``id[i]``, for each row ``i``."""
        ...


@dataclass(frozen=True)
class RandomShift:
    """Images moved by a whole number of pixels along each axis, zeros where nothing was.

    ``out[y, x] = in[y - dy, x - dx]`` with dy and dx independent and uniform in ``-pixels..pixels``. Every view is a
    shift, also view 0; ``pixels=0`` moves nothing. Images are ``[batch, h, w]`` or ``[batch, c, h, w]``, of any number
    type.

    Attributes:
        pixels: The furthest an image moves along an axis, in pixels.
        seed: Another seed gives other shifts.

    Raises:
        LimbeckError: If `pixels` is negative, or no whole number.

    Example:
        >>> image = torch.eye(3, dtype=torch.uint8)[None]
        >>> RandomShift(0)(image, torch.tensor([0]), torch.tensor([0])).equal(image)
        True
    """

    pixels: int
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.pixels, bool) or not isinstance(self.pixels, int):
            raise LimbeckError(f"RandomShift(pixels={self.pixels!r}): pixels is a whole number, 0 or more.")
        if self.pixels < 0:
            raise LimbeckError(
                f"RandomShift(pixels={self.pixels}) is negative; give the furthest move, for example RandomShift(2)."
            )

    @property
    def fingerprint(self) -> str:
        """Name, version and parameters."""
        return f"shift/1 pixels={self.pixels} seed={self.seed}"

    def offsets(self, id: Int[Tensor, " batch"], view: Int[Tensor, " batch"]) -> Int[Tensor, "batch 2"]:
        """How far each image moves, (down, right), in pixels."""
        draws = counter_uniform(id, view, seed=self.seed, draws=2, stream="shift")
        return (draws * (2 * self.pixels + 1)).long() - self.pixels

    def __call__(
        self, inputs: Shaped[Tensor, " batch *image"], id: Int[Tensor, " batch"], view: Int[Tensor, " batch"]
    ) -> Shaped[Tensor, " batch *image"]:
        """The shifted images, of the same shape and type.

        Raises:
            DataError: If the inputs are not images with height and width last.
        """
        check_images(inputs, who="RandomShift")
        height, width = inputs.shape[-2:]
        wide = F.pad(inputs, (self.pixels,) * 4)
        # Every window of the padded image, as a view: one indexing step copies the window that each row wants.
        windows = wide.unfold(-2, height, 1).unfold(-2, width, 1)
        rows = torch.arange(len(inputs), device=inputs.device)
        down, right = (self.pixels - self.offsets(id, view)).to(inputs.device).unbind(1)
        if inputs.ndim == 3:
            return windows[rows, down, right]
        return windows[rows, :, down, right]


def check_transform(view: Any, *, who: str) -> None:
    """Refuse what is no view.

    Raises:
        LimbeckError: If it is a class of views, something that mixes examples, or neither.
    """
    if isinstance(view, type):
        raise LimbeckError(f"{who} holds {view.__name__}, a class, not a view; type {view.__name__}().")
    if hasattr(view, "blend"):
        raise LimbeckError(f"{view!r} mixes two examples, where {who} makes a view of one: give it as mix={view!r}.")
    if not isinstance(view, Transform):
        raise LimbeckError(f"A view has a fingerprint and is called with (inputs, id, view); got {view!r}.")


def check_images(inputs: Any, *, who: str) -> None:
    """Refuse what is no batch of images with height and width last."""
    shape: Any = list(inputs.shape) if isinstance(inputs, Tensor) else f"a {type(inputs).__name__}"
    if not isinstance(inputs, Tensor) or inputs.ndim not in (3, 4):
        raise DataError(f"{who} wants images [batch, h, w] or [batch, c, h, w]; got {shape}.")
    if inputs.ndim == 4 and shape[-1] in (1, 3, 4) and shape[1] not in (1, 3, 4):
        raise DataError(
            f"{who} wants channels before height and width; {shape} looks like [batch, h, w, c]: "
            "store the images as x.transpose(0, 3, 1, 2)."
        )
