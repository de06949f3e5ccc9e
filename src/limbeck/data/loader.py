"""`Loader`, which yields batches, and `ShuffledLoader`, whose order is a pure function of seed and epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, final

import torch
from jaxtyping import Int
from torch import Tensor, nn

from limbeck.batch import Batch
from limbeck.data.apply_transform import apply_transforms, check_augmentation, is_repeatable, view_number
from limbeck.data.batch_mix import BatchMix
from limbeck.data.column_checks import hash_columns
from limbeck.data.dataset import Dataset
from limbeck.data.prefetch import check_num_workers, prefetch
from limbeck.data.transform import Transform
from limbeck.errors import DataError, LimbeckError
from limbeck.functional.counter_rng import counter_order


class Loader(ABC):
    """A stream of batches in epochs that knows its own position.

    Iterating yields what is left of the current epoch; when it is exhausted the position is the start of the next one.
    A batch counts as used from the moment it is handed out. One iterator at a time: a second one continues from the
    position that the first has reached.

    A new kind of source says in `batches` how an epoch is made from a batch number on; the position is kept here.
    """

    has_ids: bool = True
    """Whether every batch carries ids; the cache, memory banks and exact resume need them."""
    resumable: bool = True
    """Whether `state_dict` can bring back the exact remaining batches."""
    fixed: bool = False
    """Whether an example, or its view, has the same inputs whenever it is handed out, as its fingerprint says; where
    nobody knows, a teacher's stored answers are held against the inputs."""

    def __init__(self) -> None:
        self._epoch = 0
        self._batch = 0

    @abstractmethod
    def __len__(self) -> int:
        """How many batches a whole epoch has."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """What the examples and their views are; not the order, nor the size of a batch."""

    @property
    @abstractmethod
    def examples_per_epoch(self) -> int | None:
        """How many examples a whole epoch hands out; None where the source cannot tell."""

    @abstractmethod
    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """The batches of `epoch` from number `start` on."""

    @final
    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches(self._epoch, self._batch):
            self._batch += 1
            yield batch
            # Freed now and not when the next has come: freeing gives up Python's lock, which a worker then takes.
            del batch
        self._epoch, self._batch = self._epoch + 1, 0

    def peek(self) -> Batch:
        """The batch that iterating would hand out next, without using it up.

        At the end of an epoch, the first batch of the next.
        """
        for epoch, start in ((self._epoch, self._batch), (self._epoch + 1, 0)):
            for batch in self.batches(epoch, start):
                return batch
        raise DataError(f"{type(self).__name__} has no batches.")

    def state_dict(self) -> dict[str, Any]:
        """The position: ``epoch``, and ``batch``, how many batches of it were handed out."""
        return {"epoch": self._epoch, "batch": self._batch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Move to a position; ``batch == len(self)`` is an epoch that is exhausted at once.

        Raises:
            LimbeckError: If the position is not one of this source.
        """
        epoch, batch = state.get("epoch"), state.get("batch")
        if not (isinstance(epoch, int) and isinstance(batch, int) and epoch >= 0 and 0 <= batch <= len(self)):
            raise LimbeckError(
                f"epoch={epoch}, batch={batch} is no position in a source of {len(self)} batches an epoch; "
                "was it saved with other data or another batch size?"
            )
        self._epoch, self._batch = epoch, batch

    def bind(self, models: Mapping[str, nn.Module]) -> None:  # noqa: B027 - most sources need no model
        """Called once before the first batch with the models of the recipe, for sources that ask them (rollouts)."""


@final
class ShuffledLoader(Loader):
    """The examples of a set, every one once an epoch, in an order that is a pure function of (seed, epoch).

    With `augment` or `mix`, an epoch hands out one view of each example, numbered by the epoch (``Batch.view``), and
    ``Batch.inputs`` is that view; without, the examples themselves (``Batch.view`` is None). A mixture has no label:
    what its two parts were is in ``Batch.extra`` (``ratio``, ``partner``, ``labels``, ``partner_labels``).

    Args:
        examples: The set.
        batch_size: Examples in a batch; the last batch of an epoch may hold fewer.
        seed: Another seed gives another order.
        shuffle: False keeps the order of the set.
        drop_last: Leave out the last batch of an epoch if it holds fewer.
        augment: What makes a view of an example.
        mix: What mixes it with another of the set, after both were augmented alike, such as ``Mixup()``.
        views: How many views there are of an example: epoch e hands out number e mod `views`, so that answers stored
            for them serve any number of epochs. None means as many as epochs.
        num_workers: How many threads make batches ahead of the step that uses them; batches, ids and order do not
            depend on it. None takes what the set says: for a folder of pictures a few, for what lies in memory 0.

    Raises:
        LimbeckError: If `batch_size` or `views` is not positive, `drop_last` would leave no batch, `augment` makes no
            views, `mix` no mixtures, or `num_workers` is negative.
        DataError: If examples are to be mixed that have several labels each.

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
                f"drop_last leaves no batch: batch_size={batch_size} is above the {len(examples)} examples."
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
        """That of the examples; with `augment` or `mix`, SHA-256 of it and theirs.

        `views` is not in it: what a view of an example is does not depend on how many there are.
        """
        if self.augment is None and self.mix is None:
            return self.examples.fingerprint
        view = None if self.augment is None else self.augment.fingerprint
        mix = [] if self.mix is None else [("mix", self.mix.fingerprint)]
        return hash_columns(("examples", self.examples.fingerprint), ("view", view), *mix)

    @property
    def fixed(self) -> bool:  # type: ignore[override]
        """Whether examples and views are limbeck's own, which never change."""
        return is_repeatable(self.examples, self.augment)

    @property
    def examples_per_epoch(self) -> int:
        """All of them, or, with `drop_last`, those in whole batches."""
        return len(self) * self.batch_size if self.drop_last else len(self.examples)

    def order(self, epoch: int) -> Int[Tensor, " n"]:
        """The positions of the examples in the order in which `epoch` hands them out."""
        size = len(self.examples)
        return counter_order(size, seed=self.seed, epoch=epoch) if self.shuffle else torch.arange(size)

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """The batches of `epoch` from number `start` on."""
        make = partial(self._batch_of, self.order(epoch), view_number(epoch, self.views))
        yield from prefetch(make, range(start, len(self)), num_workers=self.num_workers)

    def peek(self) -> Batch:
        """The batch that iterating would hand out next, without using it up; no other is made ahead."""
        state = self.state_dict()
        epoch, number = state["epoch"], state["batch"]
        if number == len(self):
            epoch, number = epoch + 1, 0
        return self._batch_of(self.order(epoch), view_number(epoch, self.views), number)

    def _batch_of(self, order: Int[Tensor, " n"], view: int, number: int) -> Batch:
        index = order[number * self.batch_size : (number + 1) * self.batch_size]
        return apply_transforms(self.examples, index, self.augment, view, mix=self.mix)


def check_batch_size(batch_size: int) -> None:
    """Refuse what is no number of examples in a batch.

    Raises:
        LimbeckError: If it is not a positive whole number.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise LimbeckError(f"batch_size={batch_size!r} is not a positive whole number; try batch_size=128.")
