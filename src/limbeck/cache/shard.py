"""One file of teacher outputs, checked before it is used, and the index of its rows."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from limbeck.cache.location import Location
from limbeck.cache.manifest import Shard
from limbeck.errors import DataError, LimbeckError

FOLDER = "shards"
_KEYS = ("id", "view", "positions", "marks")
_RECORDS = "records."
_CHUNK = 1 << 22
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, IndexError, RecursionError, MemoryError)
"""The errors that a damaged header may cause."""
Result = TypeVar("Result")


class Keys(NamedTuple):
    """The keys of the outputs in a shard, row by row.

    Attributes:
        id: The example ids, ``int64 [n]``.
        view: The view numbers; -1 for examples without augmentation.
        positions: The number of positions of each output, where it differs between examples; otherwise None.
        marks: Checksums of the inputs, ``int64 [n, 2]``, for a loader whose inputs may change; 0 where there is none.
    """

    id: NDArray[np.int64]
    view: NDArray[np.int64]
    positions: NDArray[np.int64] | None = None
    marks: NDArray[np.int64] | None = None

    def joined(self, others: Sequence[Keys]) -> Keys:
        """These rows, followed by those of others."""
        every = [self, *others]
        counts = [keys.positions for keys in every if keys.positions is not None]
        return Keys(
            np.concatenate([keys.id for keys in every]),
            np.concatenate([keys.view for keys in every]),
            np.concatenate(counts) if counts else None,
            np.concatenate([keys.marked() for keys in every]) if any(k.marks is not None for k in every) else None,
        )

    def marked(self) -> NDArray[np.int64]:
        """The checksums of the inputs; 0 where there are none."""
        return np.zeros((len(self.id), 2), np.int64) if self.marks is None else self.marks


Records = Mapping[str, NDArray[np.uint8]]
"""Address -> rows of bytes: one for each example, or for each position where their number differs."""


def write_shard(location: Location, file: str, keys: Keys, records: Records) -> Shard:
    """Write a shard atomically, as a safetensors file of this name.

    Raises:
        LimbeckError: If the disk is full, or cannot be written to.
    """
    from safetensors.numpy import save

    columns = {name: column for name, column in zip(_KEYS, keys, strict=True) if column is not None}
    data = save(columns | {_RECORDS + address: rows for address, rows in records.items()})
    location.put(file, data)
    return Shard(file, len(keys.id), len(data), hashlib.sha256(data).hexdigest(), _keys_sha256(keys))


@final
class MappedShard:
    """A shard's file, mapped into memory; its bytes are verified when they are first used.

    Args:
        location: The location of the cache.
        shard: The file and its checksums.
    """

    def __init__(self, location: Location, shard: Shard) -> None:
        self._location = location
        self._shard = shard
        self._guard = threading.Lock()
        self._records: dict[str, NDArray[np.uint8]] | None = None
        self._valid_addresses = set[str]()

    def keys(self) -> Keys:
        """The keys of its outputs; only these bytes are read and verified.

        Raises:
            DataError: If the file is missing or cut short, or its keys are damaged.
        """
        columns = self._retry(self._columns)
        return _keys({name: np.array(columns[name]) for name in _KEYS if name in columns})

    def records(self, address: str) -> NDArray[np.uint8]:
        """The rows at an address; the first call in a process reads and verifies the whole file.

        Raises:
            DataError: If the file is missing or damaged.
        """
        with self._guard:
            if self._records is None:
                self.verify()
                mapped = self._retry(self._columns)
                self._records = {n.removeprefix(_RECORDS): c for n, c in mapped.items() if n.startswith(_RECORDS)}
        if address not in self._records:
            raise self._damaged(f"it has no outputs at {address!r}")
        return self._records[address]

    def rows(self, address: str, *, width: int, each: bool) -> NDArray[np.uint8]:
        """`records`, after a check that their number and width agree with the keys.

        Args:
            address: The address.
            width: Bytes of a record.
            each: Whether there is a record for each position instead of each example.

        Raises:
            DataError: As for `records`, or if the number or width is wrong.
        """
        records = self.records(address)
        if address not in self._valid_addresses:
            keys = self.keys()
            count = len(keys.id) if keys.positions is None or not each else int(keys.positions.sum())
            if records.shape != (count, width) or records.dtype != np.uint8:
                raise self._damaged(f"the outputs at {address!r} are {list(records.shape)}, not {[count, width]}")
            self._valid_addresses.add(address)
        return records

    def verify(self) -> None:
        """Read the whole file and compare its SHA-256 with the one in the manifest.

        Raises:
            DataError: If it differs.
        """
        self._retry(self._verify)

    def _verify(self) -> None:
        path = self._path()
        size = path.stat().st_size
        if size != self._shard.bytes:
            raise self._damaged(f"it has {size} bytes instead of {self._shard.bytes}")
        if _sha256(path) != self._shard.sha256:
            raise self._damaged("its SHA-256 is not the one in the manifest")

    def _columns(self) -> Mapping[str, NDArray[Any]]:
        try:
            columns = _map_columns(self._path())
            keys = _keys(columns)
            whole = len(keys.id) == self._shard.examples and _keys_sha256(keys) == self._shard.keys
        except _UNREADABLE as error:
            raise self._damaged(f"its header cannot be read: {error}") from error
        if not whole:
            raise self._damaged("its keys are not those that were written")
        return columns

    def _retry(self, read: Callable[[], Result]) -> Result:
        """The result of `read`; a damaged file that was fetched is fetched once more."""
        try:
            try:
                return read()
            except DataError:
                if not self._location.forget(self._shard.file):
                    raise
                return read()
        except OSError as error:  # the bytes may be right: this is no DataError
            what = error.strerror or error
            raise LimbeckError(f"{self._location.name}/{self._shard.file} cannot be read now: {what}.") from error

    def _path(self) -> Path:
        return self._location.fetch(self._shard.file, self._shard.bytes)

    def _damaged(self, why: str) -> DataError:
        return DataError(
            f"{self._location.name}/{self._shard.file} is damaged ({why}): none of its {self._shard.examples} outputs "
            "is read. Remove that file and build the cache again; the other shards stay."
        )


def _keys(columns: Mapping[str, NDArray[Any]]) -> Keys:
    """The columns of keys.

    Raises:
        ValueError: If they have other dtypes or lengths.
    """
    keys = Keys(columns["id"], columns["view"], columns.get("positions"), columns.get("marks"))
    shapes = [None if column is None else (column.shape, column.dtype) for column in keys]
    row, mark = ((len(keys.id),), np.dtype(np.int64)), ((len(keys.id), 2), np.dtype(np.int64))
    if shapes[:2] != [row, row] or shapes[2] not in (None, row) or shapes[3] not in (None, mark):
        raise ValueError("its keys have the wrong shape")
    if (keys.view < -1).any() or (keys.positions is not None and (keys.positions < 0).any()):
        raise ValueError("its keys hold a negative number")
    return keys


def _map_columns(path: Path) -> dict[str, NDArray[Any]]:
    """The columns of a safetensors file, all in one memory map.

    Raises:
        ValueError: If its header is invalid.
    """
    whole = np.memmap(path, dtype=np.uint8, mode="r")
    begin = 8 + int.from_bytes(whole[:8].tobytes(), "little")
    header = json.loads(whole[8:begin].tobytes())
    kinds = {"I64": np.int64, "U8": np.uint8}
    columns = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            # A plain array: indexing a numpy memory map costs more than reading a row.
            part = np.asarray(whole)[begin + first : begin + last]
            columns[name] = part.view(kinds[entry["dtype"]]).reshape(entry["shape"])
    return columns


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _keys_sha256(keys: Keys) -> str:
    digest = hashlib.sha256()
    for column in keys[:3] if keys.marks is None else keys:  # without marks, the hash of older caches
        digest.update(b"none" if column is None else np.ascontiguousarray(column).data)
    return digest.hexdigest()


_SPARE = 1 << 20
"""Entries of a table that may be empty, whatever the number of keys."""


@final
class Index:
    """Finds rows by example and view, many at a time.

    It is a table with a line for each view and a column for each id. Where ids are consecutive, the column follows from
    the id; other ids are looked up in a sorted array. Where most of a table would be empty, pairs of example and view
    are looked up in a sorted array instead. If a key occurs twice, the first row is used.

    Args:
        keys: The keys of the rows.
    """

    def __init__(self, keys: Keys) -> None:
        count = len(keys.id)
        self._ids: NDArray[np.int64] | None = None
        self._first = int(keys.id.min()) if count else 0
        lines = int(keys.view.max()) + 2 if count else 1
        self._length = int(keys.id.max()) - self._first + 1 if count else 0
        if lines * self._length > 4 * count + _SPARE:
            self._ids = np.unique(keys.id)
            self._length = len(self._ids)
        self._table: NDArray[np.int64] | None = None
        column, _ = self._columns(keys.id)
        backwards = slice(None, None, -1)  # so that the first of two equal keys is written last
        if lines * self._length <= 4 * count + _SPARE:
            self._table = np.full((lines, self._length), -1, np.int64)
            self._table[keys.view[backwards] + 1, column[backwards]] = np.arange(count)[backwards]
            return
        self._views, view = np.unique(keys.view, return_inverse=True)
        self._pairs, self._rows = np.unique(column * len(self._views) + view, return_index=True)

    def rows(self, id: NDArray[np.int64], view: NDArray[np.int64] | int) -> NDArray[np.int64]:
        """The row of each; -1 where there is none.

        Args:
            id: The example ids.
            view: The view of each example, or one view for all; -1 for examples without augmentation.
        """
        if len(id) == 0 or self._length == 0:
            return np.full(len(id), -1)
        column, exists = self._columns(id)
        if self._table is None:
            return self._search_pairs(column, exists, view)
        lines = len(self._table)
        if not isinstance(view, int):
            exists = exists & (view >= -1) & (view < lines - 1)
            return np.where(exists, self._table[np.where(exists, view + 1, 0), np.where(exists, column, 0)], -1)
        if not -1 <= view < lines - 1:
            return np.full(len(id), -1)
        line = self._table[view + 1]
        return line[column] if exists.all() else np.where(exists, line[np.where(exists, column, 0)], -1)

    def _columns(self, id: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The column of each id, and whether it exists."""
        if self._ids is None:
            column = id - self._first if self._first else id
            return column, (column >= 0) & (column < self._length)
        column = np.minimum(np.searchsorted(self._ids, id), self._length - 1)
        return column, self._ids[column] == id

    def _search_pairs(
        self, column: NDArray[np.int64], exists: NDArray[np.bool_], view: NDArray[np.int64] | int
    ) -> NDArray[np.int64]:
        number = np.minimum(np.searchsorted(self._views, view), len(self._views) - 1)
        pair = column * len(self._views) + number
        at = np.minimum(np.searchsorted(self._pairs, pair), len(self._pairs) - 1)
        there = exists & (self._views[number] == view) & (self._pairs[at] == pair)
        return np.where(there, self._rows[at], -1)
