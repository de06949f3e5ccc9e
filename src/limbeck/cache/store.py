"""`Store`: reads the outputs of a teacher for given examples and views."""

from __future__ import annotations

import os
import threading
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.cache.column import Column, record_indices
from limbeck.cache.index import Index
from limbeck.cache.location import Location
from limbeck.cache.manifest import FILE, Manifest, Shard
from limbeck.cache.shard import Keys, MappedShard
from limbeck.errors import DataError, LimbeckError

Ids = NDArray[np.int64]


@final
class Store:
    """A teacher's answers on disk, for reading: found by example and view, and checked before they are believed.

    Any number of processes may read one at the same time, also while another one adds to it; `refresh` sees what was
    added.

    Args:
        where: Its folder, or an address that fsspec opens.

    Raises:
        DataError: If there is none, or its manifest was edited or is damaged.
    """

    def __init__(self, where: str | os.PathLike[str] | Location) -> None:
        self.location = where if isinstance(where, Location) else Location(where)
        self._guard = threading.Lock()
        self._mapped: dict[Shard, MappedShard] = {}
        self.refresh()

    def refresh(self) -> None:
        """Look at the manifest again; what is mapped already stays.

        Raises:
            DataError: If there is none any more, or it is another store's.
        """
        manifest = find_manifest(self.location)
        if manifest is None:
            raise DataError(f"There is no store of answers at {self.location.name}: it has no {FILE}.")
        before: Manifest | None = self.__dict__.get("manifest")
        if before is not None and before.origin != manifest.origin:
            raise DataError(f"The store at {self.location.name} was replaced by another one while it was read.")
        with self._guard:
            self.manifest: Manifest = manifest
            self._shards = [self._mapped.setdefault(s, MappedShard(self.location, s)) for s in manifest.shards]
            for name in ("keys", "_index", "_starts", "_lengths", "_first", "columns"):
                self.__dict__.pop(name, None)

    def __len__(self) -> int:
        """How many answers it holds."""
        return sum(shard.examples for shard in self.manifest.shards)

    @property
    def bytes(self) -> int:
        """The size of all its shards."""
        return sum(shard.bytes for shard in self.manifest.shards)

    @cached_property
    def columns(self) -> dict[str, Column]:
        """How the answers at each address are kept."""
        try:
            return {address: Column.from_spec(spec) for address, spec in self.manifest.origin.answers.items()}
        except LimbeckError as error:  # of a checksum that somebody made again, or a later version
            raise DataError(f"{self.location.name}/{FILE} is damaged: {error}") from error

    def rows(self, id: Ids, view: Ids | int) -> NDArray[np.int64]:
        """Where the answers are, for `read`; -1 where there is none."""
        return self._index.rows(id, view)

    def read(self, rows: NDArray[np.int64], address: str, *, counted: NDArray[np.bool_] | None = None) -> Any:
        """The answers at an address, in the order of `rows`: a tensor, or a partial answer.

        Args:
            rows: From `rows`, none of them -1.
            address: One of `columns`.
            counted: Where examples differ in their number of positions, at which ones theirs are; by default at the
                first. What lies elsewhere is some other position's answer, and must not count.

        Raises:
            LimbeckError: If the store holds other numbers of positions.
            DataError: If a shard is damaged.
        """
        column = self.columns[address]
        if column.positions is not None:
            return column.decode(self.records(rows, address), (len(rows),))
        own, first = self._lengths[rows], self._first[rows]
        if counted is None:
            counted = np.arange(int(own.max())) < own[:, None]
        elif (counted.sum(1) != own).any():
            raise LimbeckError(
                f"The store at {self.location.name} holds answers of other lengths than the examples have now, as of "
                "another mask: build another store."
            )
        shard = np.searchsorted(self._starts, rows, side="right") - 1
        found = self._gathered_at(record_indices(first, counted).reshape(-1), shard.repeat(counted.shape[1]), address)
        return column.decode(found, counted.shape)

    def records(self, rows: NDArray[np.int64], address: str) -> NDArray[np.uint8]:
        """The bytes of the answers at an address, where each example has one record.

        Raises:
            DataError: If a shard is damaged.
        """
        if len(self._shards) == 1:
            return self._rows_of(self._shards[0], address).take(rows, axis=0)
        shard = np.searchsorted(self._starts, rows, side="right") - 1
        return self._gathered_at(rows - self._starts[shard], shard, address)

    def spans(self, rows: NDArray[np.int64], address: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The bytes of the answers, position after position, example after example, and how many each example has.

        Raises:
            DataError: If a shard is damaged.
        """
        if self.columns[address].positions is not None:
            return self.records(rows, address), np.ones(len(rows), np.int64)
        own = self._lengths[rows]
        within = np.arange(own.sum()) - (own.cumsum() - own).repeat(own)
        shard = (np.searchsorted(self._starts, rows, side="right") - 1).repeat(own)
        return self._gathered_at(self._first[rows].repeat(own) + within, shard, address), own

    def verify(self) -> list[DataError]:
        """Read everything, and compare it with its checksums; what is wrong, shard by shard."""
        wrong = []
        for mapped in self._shards:
            try:
                mapped.verify()
                mapped.keys()
            except DataError as error:
                wrong.append(error)
        return wrong

    def _gathered_at(self, at: NDArray[np.int64], shard: NDArray[np.int64], address: str) -> NDArray[np.uint8]:
        numbers = np.unique(shard)
        for number in numbers:
            self._rows_of(self._shards[number], address)  # refuses a width that is none before memory is taken
        found = np.empty((len(at), self.columns[address].width), np.uint8)
        for number in numbers:
            here = shard == number
            found[here] = self._rows_of(self._shards[number], address).take(at[here], axis=0)
        return found

    def _rows_of(self, mapped: MappedShard, address: str) -> NDArray[np.uint8]:
        column = self.columns[address]
        return mapped.rows(address, width=column.width, each=column.positions is None)

    @cached_property
    def keys(self) -> Keys:
        """Which answers it holds, row by row."""
        every = [mapped.keys() for mapped in self._shards]
        empty = Keys(np.empty(0, np.int64), np.empty(0, np.int64))
        return every[0].joined(every[1:]) if every else empty

    @cached_property
    def _index(self) -> Index:
        return Index(self.keys)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """The first row of each shard."""
        return np.cumsum([0, *(shard.examples for shard in self.manifest.shards[:-1])])

    @cached_property
    def _lengths(self) -> NDArray[np.int64]:
        positions = self.keys.positions
        return np.ones(len(self), np.int64) if positions is None else positions

    @cached_property
    def _first(self) -> NDArray[np.int64]:
        """The first record of each row, in its own shard."""
        before = np.cumsum(self._lengths) - self._lengths
        shard = np.searchsorted(self._starts, np.arange(len(self)), side="right") - 1
        return before - before[self._starts[shard]]


def find_manifest(place: Location) -> Manifest | None:
    """The manifest of the store at a place, if there is one.

    Raises:
        DataError: If it was edited or is damaged.
    """
    data = place.read(FILE)
    return None if data is None else Manifest.from_bytes(data, name=place.name)


def is_store(where: str | os.PathLike[str]) -> bool:
    """Whether a store of answers is there."""
    return (Path(where) / FILE).is_file() if "://" not in os.fspath(where) else Location(where).read(FILE) is not None


_BYTES = 64 * 2**20

_ITSELF = -1  # the view's number where an example is not augmented


@final
class DecodedTable:
    """All answers to examples themselves, not to views of them, at one address: decoded, found by id.

    A look takes one operation, where finding, reading and decoding take twenty; their results are the same to the bit.
    """

    def __init__(self, lines: Tensor, held: Tensor | None) -> None:
        self._lines, self._held = lines, held

    @staticmethod
    def of(store: Store, address: str) -> DecodedTable | None:
        """The table of an address; None where it would be big, or its answers are no tensors of one shape.

        Raises:
            DataError: If a shard is damaged.
        """
        keys, column = store.keys, store.columns[address]
        count = len(keys.id)
        length = int(keys.id.max()) + 1 if count else 0
        size = 4 * length * column.rows * column.encoding.classes
        if not count or column.positions is None or size > _BYTES or keys.id.min() < 0:
            return None
        row = store.rows(np.arange(length), _ITSELF)
        held = row >= 0
        if not held.any() or not isinstance(answers := store.read(row[held], address), Tensor):
            return None
        lines = answers
        if not held.all():
            lines = answers.new_zeros(length, *answers.shape[1:])
            lines[torch.from_numpy(held)] = answers
        return DecodedTable(lines, None if held.all() else torch.from_numpy(held))

    def look_up(self, id: Tensor) -> Tensor | None:
        """The answers to these examples; None where one of them is not held."""
        at = id.cpu()  # an accelerator does not survive an id out of range
        try:
            if self._held is not None and not bool(self._held.index_select(0, at).all()):
                return None
            return self._lines.index_select(0, at)
        except IndexError:
            return None
