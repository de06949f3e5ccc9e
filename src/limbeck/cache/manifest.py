"""The manifest of a cache: its teacher, its data and its files."""

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
"""The version of the file format; any other text is another format."""
_CHECKSUM = "sha256"
_FILES = re.compile(r"shards/[0-9]{1,12}\.safetensors")


class ManifestDifference(NamedTuple):
    """A field of a `TeacherProvenance` in which a cache differs from what a run needs.

    Attributes:
        field: The name of the field.
        stored: The value in the cache.
        expected: The value of the run.
    """

    field: str
    stored: Any
    expected: Any


@dataclass(frozen=True)
class TeacherProvenance:
    """Everything that a stored output depends on.

    Attributes:
        teacher: The fingerprint of the teacher.
        data: The fingerprint of the examples.
        views: The fingerprint of the augmentation; None without augmentation.
        preprocess: The preprocessing of the stage and of the teacher.
        precision: The dtype in which the teacher ran.
        answers: For each address, the layout of its outputs; see `Column`.
    """

    teacher: str
    data: str
    views: str | None
    preprocess: str | None
    precision: str
    answers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def difference(self, expected: TeacherProvenance) -> ManifestDifference | None:
        """The first field in which this cache differs from what a run needs; None where the run can use it.

        A cache may have more addresses than a run reads.
        """
        for name in ("data", "views", "preprocess", "teacher", "precision"):
            stored, other = getattr(self, name), getattr(expected, name)
            if stored != other:
                return ManifestDifference(name, stored, other)
        for address, column in expected.answers.items():
            if address not in self.answers:
                return ManifestDifference("answers", sorted(self.answers), address)
            if self.answers[address] != column:
                return ManifestDifference(f"the encoding of {address}", self.answers[address], column)
        return None


@dataclass(frozen=True)
class Shard:
    """A file of outputs that is complete and never changes.

    Attributes:
        file: Its name in the cache.
        examples: The number of examples.
        bytes: Its size.
        sha256: The SHA-256 of the whole file.
        keys: The SHA-256 of the keys alone: ids, views and numbers of positions.
    """

    file: str
    examples: int
    bytes: int
    sha256: str
    keys: str


@dataclass(frozen=True)
class Manifest:
    """The description of a cache.

    Attributes:
        origin: What its outputs depend on.
        about: Further information: the number of examples, versions, the batch size.
        shards: The complete files, in the order in which they were written.
    """

    origin: TeacherProvenance
    about: Mapping[str, Any] = field(default_factory=dict)
    shards: tuple[Shard, ...] = ()

    def with_shard(self, shard: Shard) -> Manifest:
        """The manifest with one more shard."""
        return replace(self, shards=(*self.shards, shard))

    def to_bytes(self) -> bytes:
        """As JSON, with the SHA-256 of all other entries."""
        body = {
            "format": FORMAT,
            "origin": asdict(self.origin),
            "about": dict(self.about),
            "shards": [asdict(shard) for shard in self.shards],
        }
        return (json.dumps({**body, _CHECKSUM: _digest(body)}, indent=1) + "\n").encode()

    @staticmethod
    def from_bytes(data: bytes, *, name: str) -> Manifest:
        """The manifest from the result of `to_bytes`.

        Raises:
            DataError: If it was edited or is damaged, or has another version.
        """
        try:
            body: Any = json.loads(data)
            checksum = body.pop(_CHECKSUM)
            if body["format"] != FORMAT:
                raise DataError(
                    f"{name}/{FILE} has the format {body['format']!r}, and this version reads {FORMAT!r}. Build the "
                    "cache again, in another folder."
                )
            if checksum != _digest(body):
                raise ValueError("its SHA-256 does not match")
            shards = tuple(Shard(**shard) for shard in body["shards"])
            if wrong := [shard.file for shard in shards if not _FILES.fullmatch(shard.file)]:
                raise ValueError(f"{wrong[0]!r} is no name of a shard")  # such as a path outside of the cache
            manifest = Manifest(TeacherProvenance(**body["origin"]), body["about"], shards)
            _check_types(manifest)
            if manifest.to_bytes() != data:  # JSON ignores changes such as an added space
                raise ValueError("another program rewrote it")
            return manifest
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise DataError(
                f"{name}/{FILE} was edited or is damaged ({error}), so no output of this cache is read. Restore the "
                "file, or build the cache again in another folder."
            ) from error


def _check_types(manifest: Manifest) -> None:
    """Raise ValueError where a field has the wrong type: whoever edits the file can also write its checksum."""
    origin = manifest.origin
    texts = (origin.teacher, origin.data, origin.precision, *(t for s in manifest.shards for t in (s.sha256, s.keys)))
    counts = [count for shard in manifest.shards for count in (shard.examples, shard.bytes)]
    maps = (manifest.about, origin.answers, *(origin.answers.values() if isinstance(origin.answers, Mapping) else ()))
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a field is no text")
    if not all(text is None or isinstance(text, str) for text in (origin.views, origin.preprocess)):
        raise ValueError("a field is no text")
    if not all(isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 2**63 for count in counts):
        raise ValueError("a field is no count")
    if not all(isinstance(value, Mapping) for value in maps):
        raise ValueError("a field is no mapping")


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
