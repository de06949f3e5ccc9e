"""`Writer`: adds outputs so that a kill at any moment leaves a valid cache."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from limbeck.atomic_io import alone
from limbeck.cache.compatibility import find_mismatch
from limbeck.cache.location import Location
from limbeck.cache.manifest import FILE, Manifest, TeacherProvenance
from limbeck.cache.shard import FOLDER, Keys, MappedShard, Records, write_shard
from limbeck.cache.store import Store, find_manifest
from limbeck.errors import DataError, LimbeckWarning

SHARD_BYTES = 256 * 2**20
_PATIENCE = 120.0
"""Seconds of a teacher's work that a kill may cost, at most: then what there is becomes a shard."""


@contextmanager
def writing(
    place: Location,
    origin: TeacherProvenance,
    *,
    about: Mapping[str, Any] | None = None,
    files: Mapping[str, bytes] | None = None,
    shard_bytes: int = SHARD_BYTES,
    patience: float = _PATIENCE,
) -> Iterator[Writer]:
    """A block in which answers are added to the store at a place, by this process alone.

    A store that is there already goes on where it stopped: shards that are whole are kept, damaged ones are dropped
    with a warning, and files that no manifest names (a killed writer's) are removed. What was appended is kept also
    when the block ends by an error.

    Args:
        place: Where the store is, or will be.
        origin: What its answers depend on.
        about: What else the manifest says of a new store.
        files: What else a new store holds, by name; it is there before the manifest is.
        shard_bytes: How big a file grows.
        patience: Seconds after which what there is becomes a file.

    Raises:
        LimbeckError: If another process is writing, the place cannot be written to, or the store has another origin.
        DataError: If the manifest is damaged.
    """
    place.open()
    with alone(place.local, doing="written"):
        manifest = find_manifest(place)
        if manifest is None:
            manifest = Manifest(origin, dict(about or {}))
            for name, data in (files or {}).items():
                place.put(name, data)
            place.put(FILE, manifest.to_bytes())
        elif (found := manifest.origin.difference(origin)) is not None:
            raise find_mismatch(place, manifest, found, about=about)
        writer = Writer(place, _sound(place, manifest), shard_bytes, patience)
        try:
            yield writer
        finally:
            writer.seal()


def repair(place: Location) -> None:
    """Drop the shards of a store that are damaged, with a warning each, so that their answers are asked again.

    Raises:
        LimbeckError: If there are any, and another process is writing, or the place cannot be written to.
        DataError: If the manifest is damaged.
    """
    if find_manifest(place) is None or not Store(place).verify():
        return
    with alone(place.local, doing="written"):
        manifest = find_manifest(place)
        if manifest is not None:
            _sound(place, manifest)


@final
class Writer:
    """Adds answers to a store: they are gathered in memory, and become a file when there are enough.

    Made by `writing`.
    """

    def __init__(self, place: Location, manifest: Manifest, shard_bytes: int, patience: float) -> None:
        self._place = place
        self._manifest = manifest
        self._limit, self._patience = shard_bytes, patience
        self._begin()

    def append(self, keys: Keys, records: Records) -> None:
        """Add answers.

        Raises:
            LimbeckError: If the disk is full, or cannot be written to.
        """
        self._keys.append(keys)
        for address, rows in records.items():
            self._records.setdefault(address, []).append(rows)
            self._bytes += rows.nbytes
        for view in np.unique(keys.view).tolist():
            self._held.setdefault(view, _Ids()).add(keys.id[keys.view == view])
        if self._bytes >= self._limit or time.monotonic() - self._since >= self._patience:
            self.seal()

    def holds(self, id: NDArray[np.int64], view: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these answers are in memory still, and in no file."""
        found = np.zeros(len(id), bool)
        for one in np.unique(view).tolist():
            if one in self._held:
                asked = view == one
                found[asked] = self._held[one].has(id[asked])
        return found

    def seal(self) -> None:
        """Make a file of what is in memory; a reader sees it after `Store.refresh`.

        Raises:
            LimbeckError: If the disk is full, or cannot be written to.
        """
        if not self._keys:
            return
        keys = self._keys[0].joined(self._keys[1:])
        records = {address: np.concatenate(rows) for address, rows in self._records.items()}
        self._begin()  # what cannot be written is asked again: it must not be tried twice at the end of the block
        number = 1 + max((_number(shard.file) for shard in self._manifest.shards), default=-1)
        manifest = self._manifest.with_shard(write_shard(self._place, number, keys, records))
        self._place.put(FILE, manifest.to_bytes())
        self._manifest = manifest

    def _begin(self) -> None:
        self._keys: list[Keys] = []
        self._records: dict[str, list[NDArray[np.uint8]]] = {}
        self._held: dict[int, _Ids] = {}
        self._bytes = 0
        self._since = time.monotonic()


@final
class _Ids:
    """A set of ids in sorted arrays, each less than half as long as the one before.

    It takes 8 bytes an id, where a set of Python's numbers takes 100.
    """

    def __init__(self) -> None:
        self._runs: list[NDArray[np.int64]] = []

    def add(self, id: NDArray[np.int64]) -> None:
        run = np.sort(id)
        while self._runs and 2 * len(run) >= len(self._runs[-1]):
            run = np.concatenate([self._runs.pop(), run])
            run.sort()
        self._runs.append(run)

    def has(self, id: NDArray[np.int64]) -> NDArray[np.bool_]:
        found = np.zeros(len(id), bool)
        for run in self._runs:
            if len(run):
                found |= run[np.minimum(np.searchsorted(run, id), len(run) - 1)] == id
        return found


def _sound(place: Location, manifest: Manifest) -> Manifest:
    """The manifest without shards that are damaged, and the folder without files that it does not name."""
    kept, lost = [], 0
    for shard in manifest.shards:
        try:
            MappedShard(place, shard).verify()
            kept.append(shard)
        except DataError as error:
            lost += shard.examples
            warnings.warn(f"{error} Its answers will be asked again.", LimbeckWarning, stacklevel=3)
    found = Manifest(manifest.origin, manifest.about, tuple(kept))
    if lost:
        place.put(FILE, found.to_bytes())
    named = {shard.file for shard in found.shards}
    for name in place.files(FOLDER):
        if f"{FOLDER}/{name}" not in named:
            place.remove(f"{FOLDER}/{name}")
    return found


def _number(file: str) -> int:
    return int(file.rpartition("/")[2].partition(".")[0])
