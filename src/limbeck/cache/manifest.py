"""The manifest of a cache: whose outputs it holds, for which data, in which files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from limbeck.errors import DataError

FILE = "manifest.json"
FORMAT = "limbeck answers 1"
"""The version of the layout: another version is another format."""
_CHECKSUM = "sha256"
_FILES = re.compile(r"shards/[0-9]{1,12}\.safetensors")


class ManifestDifference(NamedTuple):
    """A field of an `TeacherProvenance` in which a store is not what a run needs.

    Attributes:
        field: Which.
        stored: What the store has.
        wanted: What the run has.
    """

    field: str
    stored: Any
    wanted: Any


@dataclass(frozen=True)
class TeacherProvenance:
    """All that a stored answer depends on.

    Attributes:
        teacher: The fingerprint of the teacher.
        data: The fingerprint of the examples that it was asked about.
        views: The fingerprint of what made views of them; None for the examples themselves.
        preprocess: How it reads a batch.
        precision: The type that it computed in.
        answers: For each address, how what was shown there is kept; see `Column`.
    """

    teacher: str
    data: str
    views: str | None
    preprocess: str | None
    precision: str
    answers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def difference(self, wanted: TeacherProvenance) -> ManifestDifference | None:
        """The first field in which a run's origin is another one than this store's; None where the store serves it.

        A store may hold more addresses than a run reads.
        """
        for name in ("data", "views", "preprocess", "teacher", "precision"):
            stored, other = getattr(self, name), getattr(wanted, name)
            if stored != other:
                return ManifestDifference(name, stored, other)
        for address, column in wanted.answers.items():
            if address not in self.answers:
                return ManifestDifference("answers", sorted(self.answers), address)
            if self.answers[address] != column:
                return ManifestDifference(f"the encoding of {address}", self.answers[address], column)
        return None


@dataclass(frozen=True)
class Shard:
    """A file of answers that is whole and never changes.

    Attributes:
        file: Its name in the store.
        examples: How many examples' answers it holds.
        bytes: Its size.
        sha256: Of the whole file.
        keys: SHA-256 of the keys in it alone: which examples, which views, how many positions.
    """

    file: str
    examples: int
    bytes: int
    sha256: str
    keys: str


@dataclass(frozen=True)
class Manifest:
    """What a store says of itself.

    Attributes:
        origin: What its answers depend on.
        about: What else a reader may want to know: how many examples there are, versions, the batch size.
        shards: The files that are whole, in the order in which they were made.
    """

    origin: TeacherProvenance
    about: Mapping[str, Any] = field(default_factory=dict)
    shards: tuple[Shard, ...] = ()

    def with_shard(self, shard: Shard) -> Manifest:
        """The same store with one more file."""
        return replace(self, shards=(*self.shards, shard))

    def to_bytes(self) -> bytes:
        """As JSON, with the SHA-256 of all the rest in it."""
        body = {
            "format": FORMAT,
            "origin": asdict(self.origin),
            "about": dict(self.about),
            "shards": [asdict(shard) for shard in self.shards],
        }
        return (json.dumps({**body, _CHECKSUM: _digest(body)}, indent=1) + "\n").encode()

    @staticmethod
    def from_bytes(data: bytes, *, name: str) -> Manifest:
        """The manifest that `to_bytes` wrote.

        Raises:
            DataError: If it was edited or damaged, or is of another version.
        """
        try:
            body: Any = json.loads(data)
            told = body.pop(_CHECKSUM)
            if body["format"] != FORMAT:
                raise DataError(
                    f"{name}/{FILE} is of the format {body['format']!r}, and this version reads {FORMAT!r}: build the "
                    "store again, in another folder."
                )
            if told != _digest(body):
                raise ValueError("its SHA-256 is another one")
            shards = tuple(Shard(**shard) for shard in body["shards"])
            if wrong := [shard.file for shard in shards if not _FILES.fullmatch(shard.file)]:
                raise ValueError(f"{wrong[0]!r} is no name of a shard")  # such as one outside of the store
            found = Manifest(TeacherProvenance(**body["origin"]), body["about"], shards)
            _check_types(found)
            if found.to_bytes() != data:  # also where JSON would not mind: a space is a byte like another
                raise ValueError("it was written again by something else")
            return found
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise DataError(
                f"{name}/{FILE} was edited or is damaged ({error}): no answer of this store is read. Restore the file, "
                "or build the store again in another folder."
            ) from error


def _check_types(found: Manifest) -> None:
    """Raise ValueError where a field is of another kind: who can write the file can write its checksum."""
    origin = found.origin
    texts = (origin.teacher, origin.data, origin.precision, *(t for s in found.shards for t in (s.sha256, s.keys)))
    counts = [count for shard in found.shards for count in (shard.examples, shard.bytes)]
    maps = (found.about, origin.answers, *(origin.answers.values() if isinstance(origin.answers, Mapping) else ()))
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a text is none")
    if not all(text is None or isinstance(text, str) for text in (origin.views, origin.preprocess)):
        raise ValueError("a text is none")
    if not all(isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 2**63 for count in counts):
        raise ValueError("a count is none")
    if not all(isinstance(one, Mapping) for one in maps):
        raise ValueError("a mapping is none")


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
