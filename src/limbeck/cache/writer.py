"""`CacheWriter`: adds outputs so that a kill at any moment leaves a valid cache."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from limbeck.atomic_io import folder_lock
from limbeck.cache.location import Location
from limbeck.cache.manifest import FILE, Manifest, TeacherProvenance, find_mismatch
from limbeck.cache.reader import CacheReader, find_manifest
from limbeck.cache.shard import FOLDER, Keys, MappedShard, Records, write_shard
from limbeck.errors import DataError, LimbeckWarning

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
    """

    def __init__(self, location: Location, manifest: Manifest, shard_bytes: int, patience: float) -> None:
        self._location = location
        self._manifest = manifest
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
