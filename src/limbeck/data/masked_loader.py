"""`MaskedLoader`: the batches of another loader with further masks, which may depend on models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, final

from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.data.dataset import hash_columns
from limbeck.data.loader import Loader
from limbeck.data.loader_wrapper import LoaderWrapper


class BatchMasks(ABC):
    """Masks of a batch, computed for each batch of a `MaskedLoader`. It is also a function from a loader to one."""

    def __call__(self, loader: Loader) -> MaskedLoader:
        """The batches of a loader with these masks, for ``Stage(loader=masks)``."""
        return MaskedLoader(loader, self)

    @property
    def depends_on_model(self) -> bool:
        """Whether they depend on models of the run that learn."""
        return False

    def bind(self, models: Mapping[str, nn.Module]) -> None:  # noqa: B027 - most masks need no model
        """Called before the first batch with the models of the run."""

    @abstractmethod
    def compute(self, batch: Batch) -> Mapping[str, Tensor]:
        """Masks by name, ``bool`` with the shape of the labels."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """A JSON form of the settings."""


@final
class MaskedLoader(LoaderWrapper):
    """The batches of another loader, with masks of their own in ``Batch.extra["masks"]``.

    A loss uses one with ``where=``. The masks are computed when a batch is split over ranks and on its device, before
    the first forward pass, so the number of values is exact whatever the masks depend on.

    Args:
        loader: The loader.
        masks: What is computed.
    """

    def __init__(self, loader: Loader, masks: BatchMasks) -> None:
        super().__init__(loader)
        self.masks = masks
        self.augment, self.mix, self.views = loader.augment, loader.mix, loader.views

    @property
    def fixed(self) -> bool:  # type: ignore[override]
        """Whether an example always has the same inputs."""
        return self.loader.fixed and not self.depends_on_model

    @property
    def ragged(self) -> bool:  # type: ignore[override]
        """Whether batches differ in size."""
        return self.loader.ragged

    @property
    def depends_on_model(self) -> bool:  # type: ignore[override]
        """Whether batches or masks depend on models of the run."""
        return self.loader.depends_on_model or self.masks.depends_on_model

    @property
    def fingerprint(self) -> str:
        """The hash of the examples and of the settings of the masks."""
        return hash_columns(("examples", self.loader.fingerprint), ("masks", self.masks.describe()))

    def bind(self, models: Mapping[str, nn.Module]) -> None:
        """Give the models of the run to the loader and the masks."""
        super().bind(models)
        self.masks.bind(models)

    def complete(self, batch: Batch, *, used: bool = True) -> Batch:
        """Add the masks."""
        batch = self.loader.complete(batch, used=used)
        masks = {**batch.extra.get("masks", {}), **self.masks.compute(batch)}
        return batch._replace(extra={**batch.extra, "masks": masks})
