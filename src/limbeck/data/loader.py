"""`Loader`, the base class of all loaders, and `ShuffledLoader`, whose order depends only on seed and epoch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from numbers import Integral
from typing import Any, final

import torch
from jaxtyping import Int
from torch import Tensor, nn

from limbeck.batch import Batch, Inputs
from limbeck.data.dataset import Dataset, hash_columns
from limbeck.data.prefetch import check_num_workers, prefetch
from limbeck.data.transform import BatchMix, Transform, apply_transforms, check_augmentation, is_repeatable, view_number
from limbeck.errors import ArgumentError, DataError, LimbeckError
from limbeck.random_seeds import counter_order


class Loader(ABC):
    """Abstract loader: yields batches epoch by epoch and keeps track of its position.

    Iterating yields the remaining batches of the current epoch and then moves to the start of the next one. A batch
    counts as used as soon as it is yielded. Use one iterator at a time: a second one continues where the first is.

    Subclasses implement `batches`, which yields the batches of an epoch from a batch number on, and `fingerprint`. The
    class attributes and properties declare what else a loader can do; a subclass overrides those that do not fit.
    Everything else in limbeck reads these, never the type of a loader.
    """

    has_ids: bool = True
    """Whether every batch has ids, which name the same examples in every epoch and run. The cache, memory banks and
    exact resume need them."""
    resumable: bool = True
    """Whether `load_state_dict` restores the exact remaining batches."""
    replayable: bool = True
    """Whether `batches` can be called again for the same epoch, with the same result as long as the models are the
    same. A loader that is not replayable keeps the batch that `peek` returns, and yields it next."""
    fixed: bool = False
    """Whether an example or view always has the same inputs. If False, the inputs are compared with those for which
    the cached teacher outputs were computed."""
    ragged: bool = False
    """Whether batches differ in the size of dimensions behind the first, such as the length of texts."""
    depends_on_model: bool = False
    """Whether batches depend on models of the run (rollouts). `bind` is called before the first batch is requested.
    Teacher outputs for such batches cannot be cached."""
    repeats: bool = False
    """Whether an epoch may have an example several times, and others not at all."""
    batch_size: int | None = None
    """Number of examples per batch, except that the last one of an epoch may have fewer; None if it varies."""
    seed: int = 0
    """Seed of the order."""
    examples: Dataset | None = None
    """The dataset of the batches; None if there is none."""
    augment: Transform | None = None
    """The transform of every example."""
    mix: BatchMix | None = None
    """The mix of two examples."""
    views: int | None = None
    """Number of views of each example; None for a new view in every epoch."""

    def __init__(self) -> None:
        self._epoch = 0
        self._batch = 0

    def __len__(self) -> int:
        """Number of batches in a full epoch.

        Raises:
            TypeError: If the subclass does not define it: then an epoch may be of any length, even endless.
        """
        raise TypeError(f"An epoch of {self.type_name} has no fixed number of batches; use steps= instead of epochs=.")

    def __bool__(self) -> bool:
        return True

    def set_steps(self, steps: int, *, accumulate: int = 1) -> None:  # noqa: B027 - few loaders depend on it
        """Take the number of steps of the stage, and of batches in a step; called before the first batch."""

    @property
    def has_length(self) -> bool:
        """Whether the number of batches of an epoch is known, because the subclass defines ``__len__``."""
        return type(self).__len__ is not Loader.__len__

    @property
    def type_name(self) -> str:
        """The type of the loader, for messages."""
        return type(self).__name__

    @property
    def labels(self) -> Tensor | None:
        """The labels of all examples; None if they are not known before the batches."""
        return None if self.examples is None else self.examples.labels

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The class names of the examples; None if there are none."""
        return None if self.examples is None else self.examples.class_names

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Identifies the examples and their views, but not the order or the batch size."""

    @property
    def examples_per_epoch(self) -> int | None:
        """Number of examples in a full epoch; None if unknown."""
        return None

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
        """Move to a position; a batch number of ``len(self)`` means the end of the epoch.

        Raises:
            LimbeckError: If the position is not valid for this loader.
        """
        epoch, batch = state.get("epoch"), state.get("batch")
        last = len(self) if self.has_length else math.inf
        if not (isinstance(epoch, int) and isinstance(batch, int) and epoch >= 0 and 0 <= batch <= last):
            length = f"an epoch has {len(self)} batches" if self.has_length else "both are whole numbers from 0"
            raise LimbeckError(
                f"epoch={epoch}, batch={batch} is not a valid position: {length}. Was it saved with other data or "
                "another batch size?"
            )
        self._epoch, self._batch = epoch, batch

    def bind(self, models: Mapping[str, nn.Module]) -> None:  # noqa: B027 - most loaders need no model
        """Called before the first batch of a stage with the models of the run, for loaders that depend on them.

        The model that learns is the one whose weights change, also between two batches.
        """

    def set_preprocess(self, preprocess: Callable[[Batch], Inputs]) -> None:  # noqa: B027 - few loaders call a model
        """Called before `bind` with the function through which the model that learns reads a batch."""

    def complete(self, batch: Batch, *, used: bool = True) -> Batch:
        """Add to a batch what depends on the models of the run, such as texts that a model writes; by default nothing.

        A run calls this for every batch, after it was split over ranks and moved to its device, and before the first
        backward pass of the step, so that the number of labels is known.

        Args:
            batch: The batch, or this rank's part of it.
            used: Whether a step is taken on it. If it is only looked at, nothing in the loader may change.
        """
        return batch

    def pop_report(self, seconds: float, sum_over_ranks: Callable[[Sequence[Tensor]], list[float]]) -> dict[str, float]:
        """Figures about the batches since the last call, for a report; by default none.

        Args:
            seconds: The time since the last report.
            sum_over_ranks: Sums numbers over all ranks; a collective call.
        """
        return {}


class DatasetLoader(Loader):
    """Abstract loader of the examples of a dataset, in an order that a subclass chooses for each epoch.

    With `augment` or `mix`, each epoch has one view of every example.
    """

    examples: Dataset
    batch_size: int

    def __init__(
        self,
        examples: Dataset,
        *,
        batch_size: int,
        seed: int,
        drop_last: bool = False,
        augment: Transform | None,
        mix: BatchMix | None = None,
        views: int | None,
        num_workers: int | None = None,
    ) -> None:
        super().__init__()
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise LimbeckError(
                f"batch_size={batch_size!r} must be a positive whole number, for example batch_size=128."
            )
        if isinstance(seed, bool) or not isinstance(seed, (int, Integral)):
            raise ArgumentError(f"seed is a whole number; got {seed!r}.", argument="seed")
        if drop_last and batch_size > len(examples):
            raise LimbeckError(
                f"drop_last leaves no batch: batch_size={batch_size} is larger than {len(examples)} examples."
            )
        check_num_workers(num_workers)
        check_augmentation(examples, augment=augment, mix=mix, views=views)
        self.examples = examples
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.seed = seed
        self.augment = augment
        self.mix = mix
        self.views = views
        self.num_workers = examples.num_workers if num_workers is None else num_workers

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
    def examples_per_epoch(self) -> int:
        """The size of the dataset, or with `drop_last` the number of examples in full batches."""
        size = len(self.examples)
        return size - size % self.batch_size if self.drop_last else size

    @abstractmethod
    def order(self, epoch: int) -> Int[Tensor, " n"]:
        """The positions of the examples in the order of `epoch`."""

    def __len__(self) -> int:
        return -(-self.examples_per_epoch // self.batch_size)

    @property
    def fixed(self) -> bool:  # type: ignore[override]
        """Whether the dataset and the transform are limbeck's own, which are deterministic."""
        return is_repeatable(self.examples, self.augment)

    @property
    def ragged(self) -> bool:  # type: ignore[override]
        """Whether batches may differ in size, as the dataset declares."""
        return self.examples.ragged

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Yield the batches of `epoch` from number `start` on."""
        make = partial(self._take, self.order(epoch), view_number(epoch, self.views))
        yield from prefetch(make, range(start, len(self)), num_workers=self.num_workers)

    def peek(self) -> Batch:
        """Return the next batch without moving on; no other batch is prefetched."""
        epoch, number = (self._epoch, self._batch) if self._batch < len(self) else (self._epoch + 1, 0)
        return self._take(self.order(epoch), view_number(epoch, self.views), number)

    def _take(self, order: Int[Tensor, " n"], view: int, number: int) -> Batch:
        index = order[number * self.batch_size : (number + 1) * self.batch_size]
        return apply_transforms(self.examples, index, self.augment, view, mix=self.mix)


@final
class ShuffledLoader(DatasetLoader):
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
        super().__init__(
            examples, batch_size=batch_size, seed=seed, drop_last=drop_last, augment=augment, mix=mix, views=views,
            num_workers=num_workers,
        )  # fmt: skip
        self.shuffle = shuffle

    def order(self, epoch: int) -> Int[Tensor, " n"]:
        """The positions of the examples in the order of `epoch`."""
        size = self.examples_per_epoch
        whole = len(self.examples)
        return (counter_order(whole, seed=self.seed, epoch=epoch) if self.shuffle else torch.arange(whole))[:size]


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
    masks = {name: torch.zeros_like(mask) for name, mask in first.extra.get("masks", {}).items()}
    extra = {**first.extra, "masks": masks} if masks else first.extra
    return first._replace(mask=nothing.to(_device(first)), extra=extra)


def _device(batch: Batch) -> torch.device:
    tensors: list[Any] = [batch.id, batch.labels, batch.inputs]
    tensors += list(batch.inputs.values()) if isinstance(batch.inputs, Mapping) else []
    tensors += list(batch.inputs) if isinstance(batch.inputs, (tuple, list)) else []
    return next((part.device for part in tensors if isinstance(part, Tensor)), torch.device("cpu"))
