"""`CacheWriter` adds outputs so that a kill leaves a valid cache; `CachePart`: several processes fill one cache."""

from __future__ import annotations

import hashlib
import re
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from limbeck.atomic_io import folder_lock
from limbeck.cache.location import Location
from limbeck.cache.manifest import FILE, Manifest, TeacherProvenance, find_mismatch
from limbeck.cache.reader import CacheReader, find_manifest
from limbeck.cache.shard import FOLDER, Keys, MappedShard, Records, write_shard
from limbeck.errors import ArgumentError, DataError, LimbeckWarning

SHARD_BYTES = 256 * 2**20
_PATIENCE = 120.0
"""Seconds after which outputs in memory become a shard: a kill loses at most this much of the teacher's work."""


@contextmanager
def open_writer(
    location: Location,
    origin: TeacherProvenance,
    *,
    about: Mapping[str, Any] | None = None,
    files: Mapping[str, bytes] | None = None,
    shard_bytes: int = SHARD_BYTES,
    patience: float = _PATIENCE,
) -> Iterator[CacheWriter]:
    """A context in which this process folder_lock adds outputs to the cache at a location.

    An existing cache is continued: complete shards stay, damaged ones are dropped with a warning, and files that the
    manifest does not name (from a killed writer) are removed. Outputs that were appended are also written when the
    block ends by an error.

    Args:
        location: The location of the cache; it is made if it does not exist.
        origin: What the outputs depend on.
        about: Further entries for the manifest of a new cache.
        files: Further files for a new cache, by name; they are written before the manifest.
        shard_bytes: The size of a shard in bytes.
        patience: Seconds after which the outputs in memory are written.

    Raises:
        LimbeckError: If another process is writing, the location cannot be written to, or the cache has another origin.
        DataError: If the manifest is damaged.
    """
    location.open()
    with folder_lock(location.local, doing="written"):
        manifest = find_manifest(location)
        if manifest is None:
            manifest = _with_files(location, Manifest(origin, dict(about or {})), files or {})
            location.put(FILE, manifest.to_bytes())
        elif (difference := manifest.origin.difference(origin)) is not None:
            raise find_mismatch(location, manifest, difference, about=about)
        writer = CacheWriter(location, drop_damaged(location, manifest), shard_bytes, patience)
        try:
            yield writer
        finally:
            writer.seal()


def repair(location: Location) -> None:
    """Drop damaged shards with a warning for each, so that their outputs are computed again.

    Raises:
        LimbeckError: If there are damaged shards, and another process is writing or the location cannot be written to.
        DataError: If the manifest is damaged.
    """
    if find_manifest(location) is None or not CacheReader(location).verify():
        return
    with folder_lock(location.local, doing="written"):
        manifest = find_manifest(location)
        if manifest is not None:
            drop_damaged(location, manifest)


def add_files(location: Location, files: Mapping[str, bytes]) -> None:
    """Add further files to an existing cache; nothing happens if it has them intact, or there is no cache yet.

    Raises:
        LimbeckError: If another process is writing, or the location cannot be written to.
        DataError: If the manifest is damaged.
    """
    manifest = find_manifest(location)
    if manifest is None:
        return
    files = {name: data for name, data in files.items() if location.read(name) != data or name not in manifest.files}
    if not files:
        return
    with folder_lock(location.local, doing="written"):
        manifest = find_manifest(location)
        if manifest is not None:
            location.put(FILE, _with_files(location, manifest, files).to_bytes())


def _with_files(location: Location, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    """Write files; the result names them, and has to be written after them."""
    for name, data in files.items():
        location.put(name, data)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return manifest.with_files(hashes)


@final
class CacheWriter:
    """Adds outputs to a cache: they are collected in memory and written as a shard when there are enough.

    Made by `open_writer`.

    Attributes:
        shared: Whether several sessions write with it, so that each has to look for what another one wrote.
    """

    def __init__(self, location: Location, manifest: Manifest, shard_bytes: int, patience: float) -> None:
        self._location = location
        self._manifest = manifest
        self.shared = False
        self._limit, self._patience = shard_bytes, patience
        self._reset()

    def append(self, keys: Keys, records: Records) -> None:
        """Add outputs.

        Raises:
            LimbeckError: If the disk is full, or cannot be written to.
        """
        self._keys.append(keys)
        for address, rows in records.items():
            self._records.setdefault(address, []).append(rows)
            self._bytes += rows.nbytes
        for view in np.unique(keys.view).tolist():
            self._pending.setdefault(view, _IdSet()).add(keys.id[keys.view == view])
        if self._bytes >= self._limit or time.monotonic() - self._since >= self._patience:
            self.seal()

    def holds(self, id: NDArray[np.int64], view: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these outputs are in memory and not in a file yet."""
        result = np.zeros(len(id), bool)
        for number in np.unique(view).tolist():
            if number in self._pending:
                rows = view == number
                result[rows] = self._pending[number].contains(id[rows])
        return result

    def seal(self) -> None:
        """Write the outputs in memory to a file. A reader gets them after `CacheReader.refresh`.

        Raises:
            LimbeckError: If the disk is full, or cannot be written to.
        """
        if not self._keys:
            return
        keys = self._keys[0].joined(self._keys[1:])
        records = {address: np.concatenate(rows) for address, rows in self._records.items()}
        self._reset()  # before the write: if it fails, the outputs are lost, and the end of the block must not retry
        shard = write_shard(self._location, shard_file(self._manifest), keys, records)
        manifest = self._manifest.with_shard(shard)
        self._location.put(FILE, manifest.to_bytes())
        self._manifest = manifest

    def _reset(self) -> None:
        self._keys: list[Keys] = []
        self._records: dict[str, list[NDArray[np.uint8]]] = {}
        self._pending: dict[int, _IdSet] = {}
        self._bytes = 0
        self._since = time.monotonic()


@final
class _IdSet:
    """A set of ids in sorted arrays, each less than half as long as the one before.

    It takes 8 bytes an id; a Python set takes about 100.
    """

    def __init__(self) -> None:
        self._runs: list[NDArray[np.int64]] = []

    def add(self, id: NDArray[np.int64]) -> None:
        run = np.sort(id)
        while self._runs and 2 * len(run) >= len(self._runs[-1]):
            run = np.concatenate([self._runs.pop(), run])
            run.sort()
        self._runs.append(run)

    def contains(self, id: NDArray[np.int64]) -> NDArray[np.bool_]:
        result = np.zeros(len(id), bool)
        for run in self._runs:
            if len(run):
                result |= run[np.minimum(np.searchsorted(run, id), len(run) - 1)] == id
        return result


def drop_damaged(location: Location, manifest: Manifest) -> Manifest:
    """Remove damaged shards from the manifest, and files that it does not name from the folder."""
    intact, lost = [], 0
    for shard in manifest.shards:
        try:
            MappedShard(location, shard).verify()
            intact.append(shard)
        except DataError as error:
            lost += shard.examples
            warnings.warn(f"{error} Its outputs will be computed again.", LimbeckWarning, stacklevel=3)
    manifest = Manifest(manifest.origin, manifest.about, tuple(intact))
    if lost:
        location.put(FILE, manifest.to_bytes())
    names = {shard.file for shard in manifest.shards}
    for name in location.files(FOLDER):
        if f"{FOLDER}/{name}" not in names:
            location.remove(f"{FOLDER}/{name}")
    return manifest


def shard_file(manifest: Manifest) -> str:
    """The name of the next shard of a cache."""
    number = 1 + max((_number(shard.file) for shard in manifest.shards), default=-1)
    return f"{FOLDER}/{number:06d}.safetensors"


def _number(file: str) -> int:
    return int(file.rpartition("/")[2].partition(".")[0])


_PARTS = "parts"
_DONE = "done"


@dataclass(frozen=True, order=True)
class CachePart:
    """One of several ranges of batches: each process fills one of them.

    Attributes:
        number: From 1 to `count`.
        count: The number of parts.
    """

    number: int
    count: int

    @staticmethod
    def parse(text: str) -> CachePart:
        """Read a part as it is typed.

        Raises:
            ArgumentError: If it is not NUMBER/COUNT, or the number is above the count.

        Example:
            >>> CachePart.parse("2/4")
            CachePart(number=2, count=4)
        """
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ArgumentError(
                f"part is NUMBER/COUNT, from 1/4 to 4/4 for four processes; got {text!r}.", argument="part"
            )
        return CachePart(int(match[1]), int(match[2]))

    def batches(self, total: int) -> range:
        """The numbers of its batches, out of `total`: every batch is in one part.

        Example:
            >>> [list(CachePart(number, 3).batches(7)) for number in (1, 2, 3)]
            [[0, 1], [2, 3], [4, 5, 6]]
        """
        return range((self.number - 1) * total // self.count, self.number * total // self.count)

    def count_examples(self, examples: int, batch_size: int) -> int:
        """The number of examples in its batches.

        Example:
            >>> [CachePart(number, 3).count_examples(26, 4) for number in (1, 2, 3)]
            [8, 8, 10]
        """
        numbers = self.batches(-(-examples // batch_size))
        return min(numbers.stop * batch_size, examples) - numbers.start * batch_size

    def location(self, whole: Location) -> Location:
        """The location of this part of a cache."""
        return Location(f"{whole.name}/{_PARTS}/{self.number}-of-{self.count}")


def mark_part(part: CachePart, whole: Location, done: str) -> None:
    """Note that a part has all its outputs: `done` says of what, such as the number of views; "" takes it back."""
    location = part.location(whole)
    location.open()
    location.put(_DONE, done.encode()) if done else location.remove(_DONE)


def are_all_parts_done(part: CachePart, whole: Location) -> bool:
    """Whether all parts have been marked with the same text as this one."""
    marks = [CachePart(number, part.count).location(whole).read(_DONE) for number in range(1, part.count + 1)]
    return None not in marks and len({*marks}) == 1


def _parts_of(whole: Location) -> list[CachePart]:
    names = [re.fullmatch("([0-9]{1,6})-of-([0-9]{1,6})", name) for name in whole.files(_PARTS)]
    return sorted(CachePart(int(match[1]), int(match[2])) for match in names if match is not None)


def has_parts(whole: Location) -> bool:
    """Whether there are parts that are not joined yet."""
    return bool(_parts_of(whole))


def join_parts(whole: Location) -> int:
    """Move the outputs of all parts into the cache, and remove the parts; incomplete parts are moved as they are.

    A shard is linked or copied, then the manifest of the cache names it, and then the part is removed. So a kill at any
    moment loses nothing: the next call goes on. The shards come in the order of the parts.

    Returns:
        The number of outputs that were moved.

    Raises:
        LimbeckError: If a part or the cache is being written, or a part was made for something else.
        DataError: If a manifest is damaged.
    """
    places = [part.location(whole) for part in _parts_of(whole)]
    with ExitStack() as stack:
        for place in (whole, *places) if places else ():
            place.open()
            stack.enter_context(folder_lock(place.local, doing="written"))
        moved = sum(_join(place, whole) for place in places)
        for place in places:
            place.remove_all()
    return moved


def _join(place: Location, whole: Location) -> int:
    own = find_manifest(place)
    if own is None:  # it was stopped before its first output
        return 0
    own, manifest = drop_damaged(place, own), find_manifest(whole)
    if manifest is None:
        manifest = replace(own, shards=(), about={**own.about, "files": {}})
    elif (difference := manifest.origin.difference(own.origin)) is not None:
        raise find_mismatch(whole, manifest, difference, about=own.about)
    further = {name: sha256 for name, sha256 in own.files.items() if name not in manifest.files}
    for name in further:
        whole.adopt(place, name, name)
    manifest = manifest.with_files(further)
    present = {shard.sha256 for shard in manifest.shards}  # moved by a call that was killed
    for shard in own.shards:
        if shard.sha256 not in present:
            file = shard_file(manifest)
            whole.adopt(place, shard.file, file)
            manifest = manifest.with_shard(replace(shard, file=file))
    whole.put(FILE, manifest.to_bytes())
    return sum(shard.examples for shard in own.shards)
