"""Parts of a cache that several processes fill at the same time, and how they become one cache."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass, replace

from limbeck.atomic_io import folder_lock
from limbeck.cache.location import Location
from limbeck.cache.manifest import FILE, find_mismatch
from limbeck.cache.reader import find_manifest
from limbeck.cache.writer import drop_damaged, shard_file
from limbeck.errors import ArgumentError

_FOLDER = "parts"
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
        return Location(f"{whole.name}/{_FOLDER}/{self.number}-of-{self.count}")


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
    names = [re.fullmatch("([0-9]{1,6})-of-([0-9]{1,6})", name) for name in whole.files(_FOLDER)]
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
