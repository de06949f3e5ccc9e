"""`Dataset`: a finite set of examples with ids, its subsets, and stratified splits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import final

import torch
from jaxtyping import Int
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data.column_checks import hash_columns
from limbeck.data.table_encoding import TableEncoding
from limbeck.errors import DataError
from limbeck.functional.counter_rng import counter_order


def stratified_split(labels: Int[Tensor, " n"], count: int, *, seed: int) -> Int[Tensor, " count"]:
    """`count` positions, ascending, with each class in its share: a pure function of the labels and the seed.

    A class with ``m`` of the ``n`` examples gets ``count m / n``, rounded down; what is left goes one by one to the
    classes with the largest remainders. Examples without a label (-100) are a class of their own.

    Example:
        >>> stratified(torch.tensor([0] * 6 + [1] * 3), 3, seed=0).div(6, rounding_mode="floor").tolist()
        [0, 0, 1]
    """
    _, which, sizes = labels.unique(return_inverse=True, return_counts=True)
    share = sizes * count
    quota = share // len(labels)
    remainder = int(count - quota.sum())
    largest = (share % len(labels)).argsort(descending=True, stable=True)[:remainder]
    quota[largest] += 1
    shuffled = counter_order(len(labels), seed=seed, epoch=0, stream="stratified")
    grouped = shuffled[which[shuffled].argsort(stable=True)]
    rank = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    return grouped[rank < quota.repeat_interleave(sizes)].sort().values


class Dataset(ABC):
    """A finite set of examples at positions ``0..len-1``, each with an id that never changes.

    The id of an example is its position, except in a `Subset`, which keeps the ids of the set it was selected from.

    Attributes:
        encoding: How a table was turned into these numbers; None for anything else.
    """

    encoding: TableEncoding | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, index: Int[Tensor, " n"]) -> Batch:
        """The examples at the positions `index`, in that order; ``Batch.id`` holds their ids."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of the content, in hex: two sets with the same fingerprint hold the same examples."""

    @property
    @abstractmethod
    def labels(self) -> Tensor | None:
        """The labels of all examples, int64, -100 where there is none; None if the set has no labels."""

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...] | None:
        """The name of each class, where known."""

    @property
    def ids(self) -> Int[Tensor, " n"]:
        """The ids of all examples, by position."""
        return torch.arange(len(self))

    @property
    def fixed(self) -> bool:
        """Whether `take` is known to give the same inputs every time: of the sets that limbeck itself makes."""
        return type(self).__module__.startswith("limbeck.")

    @property
    def reads_files(self) -> bool:
        """Whether `take` reads and decodes files: they may be damaged, and are worth reading ahead."""
        return False

    @property
    def num_workers(self) -> int:
        """The default number of threads with which `ShuffledLoader` prefetches: 0 for data in memory."""
        return 0

    def find_damaged(
        self, index: Int[Tensor, " n"], *, progress: Callable[[int], None] = lambda count: None
    ) -> list[DataError]:
        """Read the examples at the positions `index` once: an error for each of them that cannot be taken.

        What was read when the set was made needs no second look: only a set that reads files has anything to do.

        Args:
            index: Which.
            progress: Called with how many more were read.
        """
        return []

    def select(self, index: Int[Tensor, " n"]) -> Subset:
        """The examples at the positions `index` as a set of their own that keeps their ids.

        Raises:
            DataError: If there are none, or a position is not in ``0..len-1``.
        """
        return Subset(self, index)


@final
class Subset(Dataset):
    """Some examples of another set, in a given order, under the ids that they have there."""

    def __init__(self, whole: Dataset, index: Int[Tensor, " n"]) -> None:
        if len(index) == 0:
            raise DataError("No examples were selected; a set needs at least one.")
        if int(index.min()) < 0 or int(index.max()) >= len(whole):
            wrong = int(index.min()) if int(index.min()) < 0 else int(index.max())
            raise DataError(f"Position {wrong} was selected from {len(whole)} examples; give 0 to {len(whole) - 1}.")
        if len(index.unique()) != len(index):
            raise DataError("A position was selected twice; ids must stay unique.")
        self.whole = whole
        self.encoding = whole.encoding
        self.index = index.to("cpu", torch.int64)

    def __len__(self) -> int:
        return len(self.index)

    def take(self, index: Int[Tensor, " n"]) -> Batch:
        """The examples at the positions `index` of this subset."""
        return self.whole.take(self.index[index])

    @property
    def fixed(self) -> bool:
        """As the whole is."""
        return self.whole.fixed

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the whole set's fingerprint and the selected positions."""
        return hash_columns(("subset", self.whole.fingerprint), ("index", self.index))

    @property
    def labels(self) -> Tensor | None:
        """The labels of the selected examples."""
        return None if self.whole.labels is None else self.whole.labels[self.index]

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The class names of the whole set."""
        return self.whole.class_names

    @property
    def reads_files(self) -> bool:
        """As the whole set."""
        return self.whole.reads_files

    @property
    def num_workers(self) -> int:
        """As many as the whole set."""
        return self.whole.num_workers

    def find_damaged(
        self, index: Int[Tensor, " n"], *, progress: Callable[[int], None] = lambda count: None
    ) -> list[DataError]:
        """An error for each example at the positions `index` of this part that cannot be taken."""
        return self.whole.find_damaged(self.index[index], progress=progress)

    @property
    def ids(self) -> Int[Tensor, " n"]:
        """The ids that the examples have in the whole set."""
        return self.whole.ids[self.index]


def split(examples: Dataset, *, fraction: float, seed: int) -> tuple[Subset, Subset]:
    """Two disjoint parts: the rest, and the `fraction` that is held out, with the classes in the same shares.

    A pure function of the labels and the seed. Each part has at least one example.

    Raises:
        DataError: If `fraction` is not between 0 and 1, or there is only one example.

    Example:
        >>> from limbeck.data.arrays import ArrayDataset
        >>> rest, held = split(ArrayDataset(torch.zeros(10, 2), torch.arange(10) % 2), fraction=0.2, seed=0)
        >>> len(rest), sorted(held.labels.tolist())
        (8, [0, 1])
    """
    if not 0.0 < fraction < 1.0:
        raise DataError(f"fraction={fraction} is not between 0 and 1; give the part to hold out, for example 0.1.")
    if len(examples) < 2:
        raise DataError("One example cannot be split in two.")
    count = min(max(round(fraction * len(examples)), 1), len(examples) - 1)
    holdout = stratified_split(_classes(examples), count, seed=seed)
    rest = torch.ones(len(examples), dtype=torch.bool)
    rest[holdout] = False
    return examples.select(rest.nonzero()[:, 0]), examples.select(holdout)


def subsample(examples: Dataset, n: int, seed: int) -> Subset:
    """`n` of the examples with the classes in the same shares; all of them if there are no more.

    Raises:
        DataError: If `n` is not positive.

    Example:
        >>> from limbeck.data.arrays import ArrayDataset
        >>> sorted(subsample(ArrayDataset(torch.zeros(10, 2), torch.arange(10) % 2), 4, seed=0).labels.tolist())
        [0, 0, 1, 1]
    """
    if n < 1:
        raise DataError(f"{n} examples were asked for; give a positive number.")
    return examples.select(stratified_split(_classes(examples), min(n, len(examples)), seed=seed))


def _classes(examples: Dataset) -> Int[Tensor, " n"]:
    labels = examples.labels
    return labels.cpu() if labels is not None and labels.ndim == 1 else torch.zeros(len(examples), dtype=torch.int64)
