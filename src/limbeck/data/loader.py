"""`Loader`, the base class of all loaders, and `ShuffledLoader`, whose order depends only on seed and epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, final

import torch
from jaxtyping import Int
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.data.dataset import Dataset, hash_columns
from limbeck.data.prefetch import check_num_workers, prefetch
from limbeck.data.transform import BatchMix, Transform, apply_transforms, check_augmentation, is_repeatable, view_number
from limbeck.errors import DataError, LimbeckError
from limbeck.random_seeds import counter_order


class Loader(ABC):
    """Abstract loader: yields batches epoch by epoch and keeps track of its position.

    Iterating yields the remaining batches of the current epoch and then moves to the start of the next one. A batch
    counts as used as soon as it is yielded. Use one iterator at a time: a second one continues where the first is.

    Subclasses implement `batches`, which yields the batches of an epoch from a batch number on.
    """

    has_ids: bool = True
    """Whether every batch has ids, which the cache, memory banks and exact resume need."""
    resumable: bool = True
    """Whether `load_state_dict` restores the exact remaining batches."""
    fixed: bool = False
    """Whether an example or view always has the same inputs. If False, the inputs are compared with those for which
    the cached teacher outputs were computed."""

    def __init__(self) -> None:
        self._epoch = 0
        self._batch = 0

    @abstractmethod
    def __len__(self) -> int:
        """Number of batches in a full epoch."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Identifies the examples and their views, but not the order or the batch size."""

    @property
    @abstractmethod
    def examples_per_epoch(self) -> int | None:
        """Number of examples in a full epoch; None if unknown."""

    @abstractmethod
    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Yield the batches of `epoch` from number `start` on."""

    @final
    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches(self._epoch, self._batch):
            self._batch += 1
            yield batch
            # Free the batch now, not after the next one is ready: freeing releases the GIL, which a worker then takes.
            del batch
        self._epoch, self._batch = self._epoch + 1, 0

    def peek(self) -> Batch:
        """Return the next batch without moving on; at the end of an epoch, the first batch of the next one."""
        for epoch, start in ((self._epoch, self._batch), (self._epoch + 1, 0)):
            for batch in self.batches(epoch, start):
                return batch
        raise DataError(f"{type(self).__name__} has no batches.")

    def state_dict(self) -> dict[str, Any]:
        """The position: ``epoch``, and ``batch``, the number of its batches that were yielded."""
        return {"epoch": self._epoch, "batch": self._batch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Move to a position; ``batch == len(self)`` means the end of the epoch.

        Raises:
            LimbeckError: If the position is not valid for this loader.
        """
        epoch, batch = state.get("epoch"), state.get("batch")
        if not (isinstance(epoch, int) and isinstance(batch, int) and epoch >= 0 and 0 <= batch <= len(self)):
            raise LimbeckError(
                f"epoch={epoch}, batch={batch} is not a valid position: an epoch has {len(self)} batches. Was it saved "
                "with other data or another batch size?"
            )
        self._epoch, self._batch = epoch, batch

    def bind(self, models: Mapping[str, nn.Module]) -> None:  # noqa: B027 - most loaders need no model
        """Called once before the first batch with the models of the recipe, for loaders that run them (rollouts)."""


@final
class ShuffledLoader(Loader):
    """Yields every example of a dataset once per epoch, in an order that is a pure function of (seed, epoch).

    With `augment` or `mix`, each epoch has one view of every example. ``Batch.view`` is the view number, which depends
    on the epoch, and ``Batch.inputs`` has the transformed inputs. Otherwise ``Batch.view`` is None. A mixture has no
    label; ``Batch.extra`` describes its two examples (``ratio``, ``partner``, ``labels``, ``partner_labels``).

    Args:
        examples: The dataset.
        batch_size: Examples per batch; the last batch of an epoch may be smaller.
        seed: Seed of the order.
        shuffle: False keeps the order of the dataset.
        drop_last: Drop the last batch of an epoch if it is smaller.
        augment: A transform, applied to every example.
        mix: Mixes each example with another one, after both were transformed, such as ``Mixup()``.
        views: Number of views of each example: epoch e uses view e mod `views`, so that cached outputs for these views
            serve any number of epochs. None means a new view in every epoch.
        num_workers: Number of threads that prefetch batches; batches, ids and order do not depend on it. None means the
            dataset's default: a few for an image folder, 0 for data in memory.

    Raises:
        LimbeckError: If `batch_size` or `views` is not positive, `drop_last` leaves no batch, `augment` is not a
            transform, `mix` is not a mix, or `num_workers` is negative.
        DataError: If `mix` is set and examples have several labels each.

    Example:
        >>> from limbeck.data.arrays import ArrayDataset
        >>> loader = ShuffledLoader(ArrayDataset(torch.arange(5.0)), batch_size=2, seed=0)
        >>> [batch.size for batch in loader], loader.state_dict()
        ([2, 2, 1], {'epoch': 1, 'batch': 0})
    """

    def __init__(
        self,
        examples: Dataset,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        augment: Transform | None = None,
        mix: BatchMix | None = None,
        views: int | None = None,
        num_workers: int | None = None,
    ) -> None:
        super().__init__()
        check_batch_size(batch_size)
        check_num_workers(num_workers)
        check_augmentation(examples, augment=augment, mix=mix, views=views)
        if drop_last and batch_size > len(examples):
            raise LimbeckError(
                f"drop_last leaves no batch: batch_size={batch_size} is larger than {len(examples)} examples."
            )
        self.examples = examples
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.augment = augment
        self.mix = mix
        self.views = views
        self.num_workers = examples.num_workers if num_workers is None else num_workers

    def __len__(self) -> int:
        whole, part = divmod(len(self.examples), self.batch_size)
        return whole + (part > 0 and not self.drop_last)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the dataset, combined with those of `augment` and `mix` if they are set.

        `views` is not part of it, because the content of a view does not depend on the number of views.
        """
        if self.augment is None and self.mix is None:
            return self.examples.fingerprint
        view = None if self.augment is None else self.augment.fingerprint
        mix = [] if self.mix is None else [("mix", self.mix.fingerprint)]
        return hash_columns(("examples", self.examples.fingerprint), ("view", view), *mix)

    @property
    def fixed(self) -> bool:  # type: ignore[override]
        """Whether the dataset and the transform are limbeck's own, which are deterministic."""
        return is_repeatable(self.examples, self.augment)

    @property
    def examples_per_epoch(self) -> int:
        """The size of the dataset, or with `drop_last` the number of examples in full batches."""
        return len(self) * self.batch_size if self.drop_last else len(self.examples)

    def order(self, epoch: int) -> Int[Tensor, " n"]:
        """The positions of the examples in the order of `epoch`."""
        size = len(self.examples)
        return counter_order(size, seed=self.seed, epoch=epoch) if self.shuffle else torch.arange(size)

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Yield the batches of `epoch` from number `start` on."""
        make = partial(self._batch_of, self.order(epoch), view_number(epoch, self.views))
        yield from prefetch(make, range(start, len(self)), num_workers=self.num_workers)

    def peek(self) -> Batch:
        """Return the next batch without moving on; no other batch is prefetched."""
        state = self.state_dict()
        epoch, number = state["epoch"], state["batch"]
        if number == len(self):
            epoch, number = epoch + 1, 0
        return self._batch_of(self.order(epoch), view_number(epoch, self.views), number)

    def _batch_of(self, order: Int[Tensor, " n"], view: int, number: int) -> Batch:
        index = order[number * self.batch_size : (number + 1) * self.batch_size]
        return apply_transforms(self.examples, index, self.augment, view, mix=self.mix)


def check_batch_size(batch_size: int) -> None:
    """Check a batch size.

    Raises:
        LimbeckError: If it is not a positive whole number.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise LimbeckError(f"batch_size={batch_size!r} must be a positive whole number, for example batch_size=128.")


def shard_batch(batch: Batch, rank: int, world: int) -> Batch:
    """Return the rows ``rank, rank + world, rank + 2 world, ...`` of every field of the batch.

    Every rank must call its model. A rank without rows gets row 0 with a mask of False, which adds nothing to the loss.

    Args:
        batch: The global batch, the same on every rank.
        rank: The rank, from 0.
        world: The number of ranks.

    Raises:
        LimbeckError: If `rank` is not in ``0..world-1``, or the batch is empty.

    Example:
        >>> shard_batch(Batch(torch.arange(5)), 1, 2).inputs.tolist()
        [1, 3]
    """
    if not 0 <= rank < world:
        raise LimbeckError(f"rank={rank} is not one of the {world} ranks, 0 to {world - 1}.")
    if batch.size == 0:
        raise LimbeckError("An empty batch cannot be split over ranks.")
    if world == 1:
        return batch
    if rank < batch.size:
        return batch.rows(torch.arange(rank, batch.size, world))
    first = batch.rows(torch.zeros(1, dtype=torch.int64))
    nothing = torch.zeros(1, dtype=torch.bool) if first.mask is None else torch.zeros_like(first.mask)
    return first._replace(mask=nothing.to(_device(first)))


def _device(batch: Batch) -> torch.device:
    tensors: list[Any] = [batch.id, batch.labels, batch.inputs]
    tensors += list(batch.inputs.values()) if isinstance(batch.inputs, Mapping) else []
    tensors += list(batch.inputs) if isinstance(batch.inputs, (tuple, list)) else []
    return next((part.device for part in tensors if isinstance(part, Tensor)), torch.device("cpu"))
