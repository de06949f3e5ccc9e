"""`RotatedLoader`: the images of another loader, each also rotated by 90, 180 and 270 degrees."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data.dataset import hash_columns
from limbeck.data.loader import Loader
from limbeck.data.loader_wrapper import LoaderWrapper
from limbeck.errors import LimbeckError

UPRIGHT = "upright"
"""The name of the mask of images that are not rotated, for ``Loss(..., where="upright")``."""

TURNS = 4
"""The number of rotations, with that by 0 degrees."""


@final
class RotatedLoader(LoaderWrapper):
    """The batches of another loader, followed by their images rotated by 90, 180 and 270 degrees.

    A batch of n images becomes one of 4 n: row ``r * n + i`` is image i, rotated r times. Labels and all other columns
    are repeated. The mask ``upright`` is true for those of the first n rows that count. Views are numbered ``4 v + r``
    for view v, so that a cache of the teacher's outputs cannot take one rotation for another.

    Images are rotated on the device of the model, after a batch is split over ranks, so the rotations of an image stay
    together.

    Args:
        loader: The loader. Its inputs are square images ``[batch, channels, size, size]``.
    """

    def __init__(self, loader: Loader) -> None:
        super().__init__(loader)
        self.augment, self.mix, self.views = loader.augment, loader.mix, loader.views

    @property
    def fixed(self) -> bool:  # type: ignore[override]
        """Whether an example always has the same inputs."""
        return self.loader.fixed

    @property
    def ragged(self) -> bool:  # type: ignore[override]
        """Whether batches differ in size."""
        return self.loader.ragged

    @property
    def depends_on_model(self) -> bool:  # type: ignore[override]
        """Whether batches depend on models of the run."""
        return self.loader.depends_on_model

    @property
    def fingerprint(self) -> str:
        """The hash of the other loader's, and of the rotation."""
        return hash_columns(("examples", self.loader.fingerprint), ("rotations", TURNS))

    def complete(self, batch: Batch, *, used: bool = True) -> Batch:
        """Add the rotated images.

        Raises:
            LimbeckError: If the inputs are no square images.
        """
        batch = self.loader.complete(batch, used=used)
        images = batch.inputs
        if not isinstance(images, Tensor) or images.ndim not in (3, 4) or images.shape[-2] != images.shape[-1]:
            shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise LimbeckError(
                "Rotations need square images, [batch, channels, size, size] or [batch, size, size]; the inputs are "
                f"{shape}. Crop the images to squares, or choose another method."
            )
        size, device = batch.size, images.device
        repeated = batch.rows(torch.arange(TURNS * size, device=device) % max(size, 1))
        turn = torch.arange(TURNS * size, device=device) // max(size, 1)
        view = turn if repeated.view is None else TURNS * repeated.view + turn
        masks = {**repeated.extra.get("masks", {}), UPRIGHT: (turn == 0) & repeated.valid}
        return repeated._replace(
            inputs=torch.cat([images.rot90(turns, (-2, -1)) for turns in range(TURNS)]),
            view=view,
            extra={**repeated.extra, "masks": masks},
        )
