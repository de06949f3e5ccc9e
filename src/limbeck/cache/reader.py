"""`CacheReader`: reads the outputs of a teacher for given examples and views."""

from __future__ import annotations

import hashlib
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
from limbeck.cache.location import Location
from limbeck.cache.manifest import FILE, Manifest, Shard
from limbeck.cache.shard import Index, Keys, MappedShard
from limbeck.errors import DataError, LimbeckError

Ids = NDArray[np.int64]


@final
class CacheReader:
    """Reads a cache of teacher outputs by example and view; shards are verified before they are used.

    Any number of processes may read a cache at the same time, also while one process adds to it. `refresh` makes new
    outputs visible.

    Args:
        where: The folder of the cache, or an address that fsspec opens.

    Raises:
        DataError: If there is no cache, or its manifest was edited or is damaged.
    """

    def __init__(self, where: str | os.PathLike[str] | Location) -> None:
        self.location = where if isinstance(where, Location) else Location(where)
        self._guard = threading.Lock()
        self._mapped: dict[Shard, MappedShard] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the manifest again; files that are already mapped stay mapped.

        Raises:
            DataError: If the manifest is gone, or belongs to another cache.
        """
        manifest = find_manifest(self.location)
        if manifest is None:
            raise DataError(f"There is no cache at {self.location.name}: it has no {FILE}.")
        before: Manifest | None = self.__dict__.get("manifest")
        if before is not None and before.origin != manifest.origin:
            raise DataError(f"The cache at {self.location.name} was replaced by another one while it was read.")
        if before == manifest:
            return
        with self._guard:
            self.manifest: Manifest = manifest
            self._shards = [self._mapped.setdefault(s, MappedShard(self.location, s)) for s in manifest.shards]
            for name in ("keys", "_index", "_starts", "_lengths", "_first", "columns"):
                self.__dict__.pop(name, None)

    def __len__(self) -> int:
        """The number of outputs."""
        return sum(shard.examples for shard in self.manifest.shards)

    @property
    def bytes(self) -> int:
        """The size of all shards in bytes."""
        return sum(shard.bytes for shard in self.manifest.shards)

    @cached_property
    def columns(self) -> dict[str, Column]:
        """The layout of the outputs at each address."""
        try:
            return {address: Column.from_spec(spec) for address, spec in self.manifest.origin.outputs.items()}
        except LimbeckError as error:  # the checksum is right: written by a later version, or edited
            raise DataError(f"{self.location.name}/{FILE} is damaged: {error}") from error

    def rows(self, id: Ids, view: Ids | int) -> NDArray[np.int64]:
        """The row of each output, for `read`; -1 where there is none."""
        return self._index.rows(id, view)

    def read(self, rows: NDArray[np.int64], address: str, *, counted: NDArray[np.bool_] | None = None) -> Any:
        """The outputs at an address, in the order of `rows`: a tensor, or partial logits.

        Args:
            rows: From `rows`, none of them -1.
            address: One of `columns`.
            counted: Which positions of each example hold its outputs, where examples differ in their number; by default
                the first ones. Other positions get the outputs of some counted position, and must be ignored.

        Raises:
            LimbeckError: If the cache has other numbers of positions.
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
                f"The outputs in the cache at {self.location.name} have other lengths than the examples have now, for "
                "example because of another mask. Build another cache."
            )
        shard = np.searchsorted(self._starts, rows, side="right") - 1
        index = record_indices(first, counted).reshape(-1)
        return column.decode(self._gather(index, shard.repeat(counted.shape[1]), address), counted.shape)

    def records(self, rows: NDArray[np.int64], address: str) -> NDArray[np.uint8]:
        """The encoded outputs at an address, where each example has one record.

        Raises:
            DataError: If a shard is damaged.
        """
        if len(self._shards) == 1:
            return self._rows_of(self._shards[0], address).take(rows, axis=0)
        shard = np.searchsorted(self._starts, rows, side="right") - 1
        return self._gather(rows - self._starts[shard], shard, address)

    def spans(self, rows: NDArray[np.int64], address: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The encoded outputs, position by position and example by example, and how many positions each example has.

        Raises:
            DataError: If a shard is damaged.
        """
        if self.columns[address].positions is not None:
            return self.records(rows, address), np.ones(len(rows), np.int64)
        own = self._lengths[rows]
        within = np.arange(own.sum()) - (own.cumsum() - own).repeat(own)
        shard = (np.searchsorted(self._starts, rows, side="right") - 1).repeat(own)
        return self._gather(self._first[rows].repeat(own) + within, shard, address), own

    def verify(self) -> list[DataError]:
        """Read everything and compare it with the checksums; the errors, file by file."""
        errors = []
        for mapped in self._shards:
            try:
                mapped.verify()
                mapped.keys()
            except DataError as error:
                errors.append(error)
        for name in self.manifest.files:
            try:
                read_file(self.location, self.manifest, name)
            except DataError as error:
                errors.append(error)
        return errors

    def _gather(self, at: NDArray[np.int64], shard: NDArray[np.int64], address: str) -> NDArray[np.uint8]:
        numbers = np.unique(shard)
        for number in numbers:
            self._rows_of(self._shards[number], address)  # raises for a wrong width before memory is allocated
        records = np.empty((len(at), self.columns[address].width), np.uint8)
        for number in numbers:
            here = shard == number
            records[here] = self._rows_of(self._shards[number], address).take(at[here], axis=0)
        return records

    def _rows_of(self, mapped: MappedShard, address: str) -> NDArray[np.uint8]:
        column = self.columns[address]
        return mapped.rows(address, width=column.width, each=column.positions is None)

    @cached_property
    def keys(self) -> Keys:
        """The keys of all outputs, row by row."""
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


def find_manifest(location: Location) -> Manifest | None:
    """The manifest of the cache at a location, if there is one.

    Raises:
        DataError: If it was edited or is damaged.
    """
    data = location.read(FILE)
    return None if data is None else Manifest.from_bytes(data, name=location.name)


def read_file(location: Location, manifest: Manifest, name: str) -> bytes:
    """A further file of a cache, such as its inputs.

    Raises:
        DataError: If it is missing or damaged.
    """
    data = location.read(name)
    if data is None or hashlib.sha256(data).hexdigest() != manifest.files.get(name):
        problem = "is missing" if data is None else "is damaged: its SHA-256 is not the one in the manifest"
        raise DataError(f"{location.name}/{name} {problem}. Build the cache again, in another folder.")
    return data


def is_cache(where: str | os.PathLike[str]) -> bool:
    """Whether there is a cache at `where`."""
    return (Path(where) / FILE).is_file() if "://" not in os.fspath(where) else Location(where).read(FILE) is not None


_BYTES = 64 * 2**20

_ITSELF = -1  # the view number of an example that is not augmented


@final
class DecodedTable:
    """All outputs of examples without augmentation at one address: decoded, and found by id.

    A look-up takes one operation, where finding, reading and decoding take twenty. The results are bitwise the same.
    """

    def __init__(self, lines: Tensor, present: Tensor | None) -> None:
        self._lines, self._present = lines, present

    @staticmethod
    def of(store: CacheReader, address: str) -> DecodedTable | None:
        """The table of an address; None where it would be large, or its outputs are no tensors of one shape.

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
        present = row >= 0
        if not present.any() or not isinstance(outputs := store.read(row[present], address), Tensor):
            return None
        lines = outputs
        if not present.all():
            lines = outputs.new_zeros(length, *outputs.shape[1:])
            lines[torch.from_numpy(present)] = outputs
        return DecodedTable(lines, None if present.all() else torch.from_numpy(present))

    def look_up(self, id: Tensor) -> Tensor | None:
        """The outputs of these examples; None where one of them is missing."""
        at = id.cpu()  # on an accelerator, an id out of range ends the process
        try:
            if self._present is not None and not bool(self._present.index_select(0, at).all()):
                return None
            return self._lines.index_select(0, at)
        except IndexError:
            return None
