"""`Dataset`: examples with ids, subsets and stratified splits."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, final

import torch
from jaxtyping import Int
from torch import Tensor

from limbeck.batch import Batch, count_rows
from limbeck.data.table_encoding import TableEncoding
from limbeck.errors import DataError, LimbeckError
from limbeck.random_seeds import counter_order

ROWS_FILE = "rows.bin"
"""The file of the selected positions of a `Subset` (`Dataset.to_files`)."""

POSITIONS_FILE = "positions.bin"
"""The file of the selected positions of a `limbeck.data.PositionSubset`."""

_CHUNK = 1 << 24  # numbers per chunk, so that checking a large memory map needs little memory


def chunks(column: Tensor) -> Iterator[Tensor]:
    """Split a column into chunks of rows of bounded size."""
    width = max(column[0].numel(), 1) if len(column) else 1
    yield from column.split(max(_CHUNK // width, 1))


def hash_columns(*columns: tuple[str, Any]) -> str:
    """SHA-256 (hex) of the name, type, shape and bytes of each column; a column may be None."""
    total = hashlib.sha256()
    for name, column in columns:
        if isinstance(column, Tensor):
            total.update(f"{name}|{column.dtype}|{list(column.shape)}|".encode())
            for chunk in chunks(column):
                total.update(chunk.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        else:
            total.update(f"{name}|{column!r}|".encode())
    return total.hexdigest()


def stratified_split(labels: Int[Tensor, " n"], count: int, *, seed: int) -> Int[Tensor, " count"]:
    """Draw `count` sorted positions, stratified by class: a pure function of the labels and the seed.

    A class with ``m`` of the ``n`` examples gets ``count m / n`` positions, rounded down. The remaining positions go to
    the classes with the largest remainders. Examples without a label (-100) count as a class.

    Example:
        >>> stratified_split(torch.tensor([0] * 6 + [1] * 3), 3, seed=0).div(6, rounding_mode="floor").tolist()
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
    """Abstract dataset: examples at positions ``0..len-1``, each with a constant id.

    The id of an example is its position, except in a `Subset`, which keeps the ids of the original dataset.

    Attributes:
        labels: The labels of all examples in int64, -100 for no label; None if there are none.
        targets: The column ``targets`` of all examples, for regression and several labels; None if there is none.
        tokenizer: The tokenizer whose tokens the inputs are; None if they are none.
        class_names: The name of each class; None if there are no names.
        encoding: The encoding of a table; None for other data.
        ragged: Whether batches may differ in the size of dimensions behind the first, such as the length of texts.
        reads_files: Whether `take` reads and decodes files, which may be damaged and should be prefetched.
        num_workers: The default number of threads with which `ShuffledLoader` prefetches; 0 for data in memory.
    """

    labels: Tensor | None = None
    targets: Tensor | None = None
    tokenizer: Any = None
    class_names: tuple[str, ...] | None = None
    encoding: TableEncoding | None = None
    ragged: bool = False
    reads_files: bool = False
    num_workers: int = 0

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, index: Int[Tensor, " n"]) -> Batch:
        """Return the examples at `index`, in that order; ``Batch.id`` holds their ids."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the content: the same fingerprint means the same examples."""

    @property
    def ids(self) -> Int[Tensor, " n"]:
        """The ids of all examples, by position."""
        return torch.arange(len(self))

    @property
    def fixed(self) -> bool:
        """Whether `take` always returns the same inputs; true for limbeck's own datasets."""
        return type(self).__module__.startswith("limbeck.")

    @property
    def tokenizer_fingerprint(self) -> str | None:
        """The hash of the tokenizer (`limbeck.data.hash_tokenizer`); None if there is none."""
        return None

    @property
    def row_lengths(self) -> Int[Tensor, " n"] | None:
        """The number of tokens that a model reads at a time for each example; None if it is not known."""
        return None

    def extra_column(self, name: str) -> Any:
        """The values of an extra column, or of ``labels``, of all examples; None if they are not in memory."""
        return self.labels if name == "labels" else None

    def to_files(self) -> dict[str, bytes]:
        """Return files by name from which the inputs can be restored, so that a teacher cache can keep them.

        Raises:
            LimbeckError: If the dataset has no such form; token data sets have one.
        """
        raise LimbeckError(
            f"The inputs of a {type(self).__name__} cannot be stored beside the teacher's outputs; those of a "
            "TokenDataset can. Leave inputs= out."
        )

    def find_damaged(
        self, index: Int[Tensor, " n"], *, progress: Callable[[int], None] = lambda count: None
    ) -> list[DataError]:
        """Read the examples at `index` once and return an error for each that fails.

        Only datasets that read files on access override this.

        Args:
            index: Positions of the examples.
            progress: Called with the number of examples read since the last call.
        """
        return []

    def select(self, index: Int[Tensor, " n"]) -> Subset:
        """Return the examples at `index` as a subset that keeps their ids.

        Raises:
            DataError: If `index` is empty, or a position is not in ``0..len-1`` or repeated.
        """
        return Subset(self, index)


@final
class Subset(Dataset):
    """Selected examples of another dataset, in the order of `index`, with their original ids."""

    def __init__(self, whole: Dataset, index: Int[Tensor, " n"]) -> None:
        if len(index) == 0:
            raise DataError("No examples were selected; a dataset needs at least one.")
        if int(index.min()) < 0 or int(index.max()) >= len(whole):
            wrong = int(index.min()) if int(index.min()) < 0 else int(index.max())
            raise DataError(f"Position {wrong} is not in 0 to {len(whole) - 1}: there are {len(whole)} examples.")
        if len(index.unique()) != len(index):
            raise DataError("A position was selected twice, but ids must be unique.")
        self.whole = whole
        self.class_names, self.encoding = whole.class_names, whole.encoding
        self.tokenizer = whole.tokenizer
        self.ragged, self.reads_files, self.num_workers = whole.ragged, whole.reads_files, whole.num_workers
        self.index = index.to("cpu", torch.int64)

    def __len__(self) -> int:
        return len(self.index)

    def take(self, index: Int[Tensor, " n"]) -> Batch:
        """Return the examples at the positions `index` of this subset."""
        return self.whole.take(self.index[index])

    @property
    def fixed(self) -> bool:
        """Same as for the original dataset."""
        return self.whole.fixed

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the original dataset's fingerprint and the selected positions."""
        return hash_columns(("subset", self.whole.fingerprint), ("index", self.index))

    @property
    def tokenizer_fingerprint(self) -> str | None:
        """Same as for the original dataset."""
        return self.whole.tokenizer_fingerprint

    @property
    def row_lengths(self) -> Int[Tensor, " n"] | None:
        """The lengths of the selected examples."""
        lengths = self.whole.row_lengths
        return None if lengths is None else lengths[self.index]

    def extra_column(self, name: str) -> Any:
        """The values of the selected examples."""
        return count_rows(self.whole.extra_column(name), self.index)

    def to_files(self) -> dict[str, bytes]:
        """Return the files of the original dataset, and the selected positions.

        Raises:
            LimbeckError: If the original dataset has none, or is itself a selection.
        """
        whole, index = self.whole, self.index
        while isinstance(whole, Subset):
            index = whole.index[index]
            whole = whole.whole
        files = whole.to_files()
        if ROWS_FILE in files or POSITIONS_FILE in files:
            raise LimbeckError("Select rows first and positions then: the inputs of the other order cannot be stored.")
        return {**files, ROWS_FILE: index.numpy().astype("<i8").tobytes()}

    @property
    def labels(self) -> Tensor | None:  # type: ignore[override]
        """The labels of the selected examples."""
        return None if self.whole.labels is None else self.whole.labels[self.index]

    @property
    def targets(self) -> Tensor | None:  # type: ignore[override]
        """The targets of the selected examples."""
        return None if self.whole.targets is None else self.whole.targets[self.index]

    def find_damaged(
        self, index: Int[Tensor, " n"], *, progress: Callable[[int], None] = lambda count: None
    ) -> list[DataError]:
        """Read the examples at `index` of this subset once and return an error for each that fails."""
        return self.whole.find_damaged(self.index[index], progress=progress)

    @property
    def ids(self) -> Int[Tensor, " n"]:
        """The ids of the examples in the original dataset."""
        return self.whole.ids[self.index]


def split(examples: Dataset, *, fraction: float, seed: int) -> tuple[Subset, Subset]:
    """Split a dataset in two, stratified by class: the rest, and a holdout part of size `fraction`.

    The split is a pure function of the labels and the seed. Each part has at least one example.

    Raises:
        DataError: If `fraction` is not between 0 and 1, or there is only one example.

    Example:
        >>> from limbeck.data.arrays import ArrayDataset
        >>> rest, holdout = split(ArrayDataset(torch.zeros(10, 2), torch.arange(10) % 2), fraction=0.2, seed=0)
        >>> len(rest), sorted(holdout.labels.tolist())
        (8, [0, 1])
    """
    if not 0.0 < fraction < 1.0:
        raise DataError(
            f"fraction={fraction} must be between 0 and 1: the share of examples to hold out, for example 0.1."
        )
    if len(examples) < 2:
        raise DataError("A dataset with one example cannot be split.")
    count = min(max(round(fraction * len(examples)), 1), len(examples) - 1)
    holdout = stratified_split(_classes(examples), count, seed=seed)
    rest = torch.ones(len(examples), dtype=torch.bool)
    rest[holdout] = False
    return examples.select(rest.nonzero()[:, 0]), examples.select(holdout)


def subsample(examples: Dataset, n: int, seed: int) -> Subset:
    """Draw `n` examples, stratified by class; all of them if there are fewer than `n`.

    Raises:
        DataError: If `n` is not positive.

    Example:
        >>> from limbeck.data.arrays import ArrayDataset
        >>> sorted(subsample(ArrayDataset(torch.zeros(10, 2), torch.arange(10) % 2), 4, seed=0).labels.tolist())
        [0, 0, 1, 1]
    """
    if n < 1:
        raise DataError(f"n={n} must be positive.")
    return examples.select(stratified_split(_classes(examples), min(n, len(examples)), seed=seed))


def _classes(examples: Dataset) -> Int[Tensor, " n"]:
    labels = examples.labels
    return labels.cpu() if labels is not None and labels.ndim == 1 else torch.zeros(len(examples), dtype=torch.int64)
