"""One file of stored outputs, and the check that it is still what was written."""

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
"""What a header that is none leads to."""
Found = TypeVar("Found")


class Keys(NamedTuple):
    """Which answers a shard holds, row by row.

    Attributes:
        id: Which examples, ``int64 [n]``.
        view: Which view of each; -1 stands for the example itself.
        positions: How many positions each answer has, where that differs between examples; otherwise None.
        marks: What the inputs were, ``int64 [n, 2]``, of a source of which that is not known; 0 where nobody looked.
    """

    id: NDArray[np.int64]
    view: NDArray[np.int64]
    positions: NDArray[np.int64] | None = None
    marks: NDArray[np.int64] | None = None

    def joined(self, others: Sequence[Keys]) -> Keys:
        """These rows, and then those of others."""
        every = [self, *others]
        counts = [one.positions for one in every if one.positions is not None]
        return Keys(
            np.concatenate([one.id for one in every]),
            np.concatenate([one.view for one in every]),
            np.concatenate(counts) if counts else None,
            np.concatenate([one.marked() for one in every]) if any(one.marks is not None for one in every) else None,
        )

    def marked(self) -> NDArray[np.int64]:
        """What the inputs were, 0 where nobody looked."""
        return np.zeros((len(self.id), 2), np.int64) if self.marks is None else self.marks


Records = Mapping[str, NDArray[np.uint8]]
"""Address -> rows of bytes: one for each example, or for each position where their number differs."""


def write_shard(place: Location, number: int, keys: Keys, records: Records) -> Shard:
    """Write a file that appears whole or not at all.

    It is a safetensors file: any tool that reads these reads it.

    Raises:
        LimbeckError: If the disk is full, or cannot be written to.
    """
    from safetensors.numpy import save

    file = f"{FOLDER}/{number:06d}.safetensors"
    columns = {name: column for name, column in zip(_KEYS, keys, strict=True) if column is not None}
    data = save(columns | {_RECORDS + address: rows for address, rows in records.items()})
    place.put(file, data)
    return Shard(file, len(keys.id), len(data), hashlib.sha256(data).hexdigest(), _keys_sha256(keys))


@final
class MappedShard:
    """A shard's file, mapped into memory; its bytes are checked when they are first asked for.

    Args:
        place: Where the store is.
        shard: Which file, and what it must be.
    """

    def __init__(self, place: Location, shard: Shard) -> None:
        self._place = place
        self._shard = shard
        self._guard = threading.Lock()
        self._records: dict[str, NDArray[np.uint8]] | None = None
        self._fitting = set[str]()

    def keys(self) -> Keys:
        """Which answers it holds; only these bytes are read and checked.

        Raises:
            DataError: If the file is missing, cut short, or its keys are not those that were written.
        """
        columns = self._again(self._columns)
        return _keys({name: np.array(columns[name]) for name in _KEYS if name in columns})

    def records(self, address: str) -> NDArray[np.uint8]:
        """The rows at an address; the first call in a process reads and checks the whole file.

        Raises:
            DataError: If the file is missing, cut short, or not what was written.
        """
        with self._guard:
            if self._records is None:
                self.verify()
                mapped = self._again(self._columns)
                self._records = {n.removeprefix(_RECORDS): c for n, c in mapped.items() if n.startswith(_RECORDS)}
        if address not in self._records:
            raise self._damaged(f"it holds no answers at {address!r}")
        return self._records[address]

    def rows(self, address: str, *, width: int, each: bool) -> NDArray[np.uint8]:
        """`records`, of which it is checked that there are as many as the keys say, each so long.

        Args:
            address: Where.
            width: Bytes of a record.
            each: Whether there is a record for each position, not for each example.

        Raises:
            DataError: As `records`, or if they are others.
        """
        found = self.records(address)
        if address not in self._fitting:
            keys = self.keys()
            count = len(keys.id) if keys.positions is None or not each else int(keys.positions.sum())
            if found.shape != (count, width) or found.dtype != np.uint8:
                raise self._damaged(f"the answers at {address!r} are {list(found.shape)}, not {[count, width]}")
            self._fitting.add(address)
        return found

    def verify(self) -> None:
        """Read the whole file, and compare its SHA-256 with the one that was written down.

        Raises:
            DataError: If it is another one.
        """
        self._again(self._verify)

    def _verify(self) -> None:
        path = self._path()
        size = path.stat().st_size
        if size != self._shard.bytes:
            raise self._damaged(f"it has {size} bytes instead of {self._shard.bytes}")
        if _sha256(path) != self._shard.sha256:
            raise self._damaged("its SHA-256 is not the one in the manifest")

    def _columns(self) -> Mapping[str, NDArray[Any]]:
        try:
            found = _mapped(self._path())
            keys = _keys(found)
            whole = len(keys.id) == self._shard.examples and _keys_sha256(keys) == self._shard.keys
        except _UNREADABLE as error:
            raise self._damaged(f"its header cannot be read: {error}") from error
        if not whole:
            raise self._damaged("its keys are not those that were written")
        return found

    def _again(self, look: Callable[[], Found]) -> Found:
        """What `look` finds; of a fetched file that is not right, once more after fetching it again."""
        try:
            try:
                return look()
            except DataError:
                if not self._place.forget(self._shard.file):
                    raise
                return look()
        except OSError as error:  # which does not say that the bytes are wrong
            what = error.strerror or error
            raise LimbeckError(f"{self._place.name}/{self._shard.file} cannot be read now: {what}.") from error

    def _path(self) -> Path:
        return self._place.fetch(self._shard.file, self._shard.bytes)

    def _damaged(self, why: str) -> DataError:
        return DataError(
            f"{self._place.name}/{self._shard.file} is damaged ({why}): none of its {self._shard.examples} answers is "
            "read. Remove that file and build the store again: the other shards are kept."
        )


def _keys(columns: Mapping[str, NDArray[Any]]) -> Keys:
    """The columns of keys.

    Raises:
        ValueError: If they are of other kinds or lengths.
    """
    found = Keys(columns["id"], columns["view"], columns.get("positions"), columns.get("marks"))
    shapes = [None if one is None else (one.shape, one.dtype) for one in found]
    row, mark = ((len(found.id),), np.dtype(np.int64)), ((len(found.id), 2), np.dtype(np.int64))
    if shapes[:2] != [row, row] or shapes[2] not in (None, row) or shapes[3] not in (None, mark):
        raise ValueError("its keys are of other shapes than keys have")
    if (found.view < -1).any() or (found.positions is not None and (found.positions < 0).any()):
        raise ValueError("its keys hold a negative number")
    return found


def _mapped(path: Path) -> dict[str, NDArray[Any]]:
    """The columns of a safetensors file, as views of one map of it.

    Raises:
        ValueError: If its header makes no sense.
    """
    whole = np.memmap(path, dtype=np.uint8, mode="r")
    begin = 8 + int.from_bytes(whole[:8].tobytes(), "little")
    header = json.loads(whole[8:begin].tobytes())
    kinds = {"I64": np.int64, "U8": np.uint8}
    found = {}
    for name, told in header.items():
        if name != "__metadata__":
            first, last = told["data_offsets"]
            # A plain array: what numpy adds to a memory map at every indexing costs more than a row.
            part = np.asarray(whole)[begin + first : begin + last]
            found[name] = part.view(kinds[told["dtype"]]).reshape(told["shape"])
    return found


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _keys_sha256(keys: Keys) -> str:
    found = hashlib.sha256()
    for column in keys[:3] if keys.marks is None else keys:  # as before there were marks
        found.update(b"none" if column is None else np.ascontiguousarray(column).data)
    return found.hexdigest()
