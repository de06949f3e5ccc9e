"""The manifest of a cache: its teacher, its data and its files, and the error if they do not fit a run."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from typing import Any, NamedTuple

from limbeck.cache.location import Location
from limbeck.errors import DataError, LimbeckError

FILE = "manifest.json"
FORMAT = "limbeck answers 1"
"""The version of the file format; any other text is another format."""
_CHECKSUM = "sha256"
_FURTHER_FILES = re.compile(r"(?:[A-Za-z0-9_][\w-]*/)?[A-Za-z0-9_][\w.-]*", re.ASCII)
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
        outputs: For each address, the layout of its outputs; see `Column`.
    """

    teacher: str
    data: str
    views: str | None
    preprocess: str | None
    precision: str
    outputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> TeacherProvenance:
        """The provenance from the result of `to_dict`."""
        values = dict(values)
        return TeacherProvenance(outputs=values.pop("answers"), **values)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        values = asdict(self)
        outputs = values.pop("outputs")
        return {**values, "answers": outputs}  # the key in the file

    def difference(self, expected: TeacherProvenance) -> ManifestDifference | None:
        """The first field in which this cache differs from what a run needs; None where the run can use it.

        A cache may have more addresses than a run reads.
        """
        for name in ("data", "views", "preprocess", "teacher", "precision"):
            stored, other = getattr(self, name), getattr(expected, name)
            if stored != other:
                return ManifestDifference(name, stored, other)
        for address, column in expected.outputs.items():
            if address not in self.outputs:
                return ManifestDifference("outputs", sorted(self.outputs), address)
            if self.outputs[address] != column:
                return ManifestDifference(f"the encoding of {address}", self.outputs[address], column)
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

    @property
    def files(self) -> Mapping[str, str]:
        """The further files of the cache, and the SHA-256 of each: a last layer, inputs."""
        return dict(self.about.get("files", {}))

    def with_files(self, files: Mapping[str, str]) -> Manifest:
        """The manifest with further files: name -> SHA-256."""
        if not files:
            return self
        return replace(self, about={**self.about, "files": {**self.files, **files}})

    def with_shard(self, shard: Shard) -> Manifest:
        """The manifest with one more shard."""
        return replace(self, shards=(*self.shards, shard))

    def to_bytes(self) -> bytes:
        """As JSON, with the SHA-256 of all other entries."""
        body = {
            "format": FORMAT,
            "origin": self.origin.to_dict(),
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
            manifest = Manifest(TeacherProvenance.from_dict(body["origin"]), body["about"], shards)
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
    """Raise ValueError where a field has the wrong type: an edited file can have a valid checksum."""
    origin = manifest.origin
    texts = (origin.teacher, origin.data, origin.precision, *(t for s in manifest.shards for t in (s.sha256, s.keys)))
    counts = [count for shard in manifest.shards for count in (shard.examples, shard.bytes)]
    maps = (manifest.about, origin.outputs, *(origin.outputs.values() if isinstance(origin.outputs, Mapping) else ()))
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a field is no text")
    if not all(text is None or isinstance(text, str) for text in (origin.views, origin.preprocess)):
        raise ValueError("a field is no text")
    if not all(isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 2**63 for count in counts):
        raise ValueError("a field is no count")
    if not all(isinstance(value, Mapping) for value in maps):
        raise ValueError("a field is no mapping")
    files = manifest.about.get("files", {})
    if not isinstance(files, Mapping) or not all(isinstance(value, str) for value in files.values()):
        raise ValueError("its files are no mapping of names and hashes")
    if wrong := [name for name in files if not _FURTHER_FILES.fullmatch(name)]:
        raise ValueError(f"{wrong[0]!r} is no name of a file of a cache")  # such as a path outside of the cache


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


_FIELDS = {
    "data": "data set (data)",
    "views": "augmentation (views)",
    "teacher": "teacher (teacher)",
    "preprocess": "preprocessing (preprocess)",
    "precision": "precision (precision)",
    "outputs": "set of addresses (outputs)",
}
_LONGEST = 120
_HASH = re.compile(r"[0-9a-f]{64}")
_UNCHANGED = {"preprocess": "unchanged"}
About = Mapping[str, Any]


def find_mismatch(
    location: Location, manifest: Manifest, difference: ManifestDifference, *, about: About | None = None
) -> LimbeckError:
    """The error for a cache that a run cannot use: it describes the differences, in words as far as possible.

    Args:
        location: The location of the cache.
        manifest: Its manifest.
        difference: The field that differs, with both values.
        about: The description that the manifest of the run's own cache would have.
    """
    writers = {"data": _data, "views": _views, "teacher": _teachers, "preprocess": _preprocessing}
    describe = writers.get(difference.field, _values)
    text = describe(difference.stored, difference.expected, manifest.about, about or {})
    count = sum(shard.examples for shard in manifest.shards)
    return LimbeckError(
        f"The cache at {location.name} was made for another {_FIELDS.get(difference.field, difference.field)}: it has "
        f"{text}. {_type_encoding(difference)} another folder, or remove this one, with its {count:,} outputs."
    )


def _type_encoding(difference: ManifestDifference) -> str:
    """What to type to read a cache whose encoding differs."""
    if "encoding of " not in difference.field or not isinstance(difference.stored, Mapping):
        return "Use"
    spec = dict(difference.stored.get("encoding", difference.stored))
    typed = f"'{{{', '.join(f'{key}: {value}' for key, value in spec.items())}}}'" if len(spec) > 1 else spec["name"]
    return f"To read it, type --set cache.encoding={typed}, in Python encoding={spec}. Or use"


def _compare(stored: str, expected: str, more: str = "") -> str:
    return f"{stored}, and this run has {expected}{more}"


def _data(stored: str, expected: str, theirs: About, ours: About) -> str:
    had, has = theirs.get("examples"), ours.get("examples")
    if had is None or has is None:
        return _compare(_digits(stored), _digits(expected))
    more = f"{abs(has - had):,} {'more' if has > had else 'fewer'}" if has != had else "as many, with other content"
    labels = "" if has != had else " or labels"
    return _compare(f"{had:,} examples ({_digits(stored)})", f"{has:,} ({_digits(expected)})", f", {more}{labels}")


def _views(stored: str | None, expected: str | None, theirs: About, ours: About) -> str:
    def describe(hashed: str | None, about: About) -> str:
        if hashed is None:
            return "no augmentation"
        return str(about["views"]) if named else f"{about.get('views') or 'an augmentation'} ({_digits(hashed)})"

    texts = [about.get("views") for hashed, about in ((stored, theirs), (expected, ours)) if hashed is not None]
    # Without texts, or with the same text for both, only the hashes tell them apart.
    named = None not in texts and len({*texts}) == len(texts)
    return _compare(*_excerpts(describe(stored, theirs), describe(expected, ours)))


def _teachers(stored: str, expected: str, theirs: About, ours: About) -> str:
    before, now = theirs.get("teacher"), ours.get("teacher")
    if not before or not now:
        return _compare(_digits(stored), _digits(expected))
    more = ""
    if _teacher_name(before) == _teacher_name(now):
        same = before.get("fingerprint") is not None and before.get("fingerprint") == now.get("fingerprint")
        why = "the same weights; a layer's class, the adaptor or the preprocessing differs"
        more = f", of {why if same else 'other weights'}"
    return _compare(f"{_teacher_name(before)} ({_digits(stored)})", f"{_teacher_name(now)} ({_digits(expected)})", more)


def _teacher_name(description: About) -> str:
    name = str(description.get("model") or description.get("estimator") or description.get("teacher") or "teacher")
    members = description.get("members")
    several = f" of {len(members)}" if isinstance(members, (list, tuple)) else ""
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}{several}"


def _preprocessing(stored: str | None, expected: str | None, theirs: About, ours: About) -> str:
    """The first difference between two lists of preprocessing functions: the stage's, then the teacher's own."""
    before, now = _parse_list(stored), _parse_list(expected)
    if before is None or now is None:
        return _values(stored, expected, theirs, ours)
    pairs = enumerate(zip_longest(before, now))
    index, (had, has) = next((pair for pair in pairs if pair[1][0] != pair[1][1]), (0, (stored, expected)))
    names = [isinstance(value, str) and value.partition(" ")[0] for value in (had, has)]
    more = ", of the same name: its code, or a value that it uses, differs" if names[0] and len({*names}) < 2 else ""
    none, own = ("no preprocessing of the teacher's own", "the teacher's own ") if index else ("none", "")
    before_text, now_text = (f"{own}{text}" if text else none for text in _differing_entries(had, has))
    return _compare(before_text, now_text, more)


def _parse_list(text: str | None) -> list[Any] | None:
    try:
        values = json.loads(text or "")
    except ValueError:
        return None
    return [_UNCHANGED if value is None else _parse(value) for value in values] if isinstance(values, list) else None


def _parse(value: Any) -> Any:
    """Preprocessing with values as a mapping; one with a name and a hash as a text with eight digits of the hash."""
    try:
        return json.loads(value)
    except (ValueError, TypeError):
        return re.sub(r"\b([0-9a-f]{8})[0-9a-f]{8}$", r"\1", str(value))


def _values(stored: Any, expected: Any, theirs: About, ours: About) -> str:
    del theirs, ours
    return _compare(*_differing_entries(stored, expected))


def _differing_entries(stored: Any, expected: Any) -> tuple[str, str]:
    """Two values as texts: of two mappings of the same kind only the entries that differ."""
    if not isinstance(stored, Mapping) or not isinstance(expected, Mapping):
        texts = (_spell(v, v) if isinstance(v, Mapping) else str(v or "") for v in (stored, expected))
        return _excerpts(*texts)
    if any(stored.get(key) != expected.get(key) for key in ("name", "preprocess")):
        return _spell(stored, stored), _spell(expected, expected)
    return _spell(stored, _without(stored, expected)), _spell(expected, _without(expected, stored))


def _without(mapping: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in other or other[key] != value}


def _spell(whole: Mapping[str, Any], entries: Mapping[str, Any]) -> str:
    if whole == _UNCHANGED:
        return "the inputs as they are"
    kind = (
        str(whole.get("name") if "preprocess" not in whole else whole["preprocess"])
        if {"name", "preprocess"} & {*whole}
        else ""
    )
    rest = ", ".join(f"{key}={value}" for key, value in entries.items() if key != "preprocess" and value != kind)
    return f"{kind} with {rest}" if kind and rest else kind or rest


def _excerpts(text: str, other: str) -> tuple[str, str]:
    """Two texts; long ones are cut to the part around the first difference."""
    if max(len(text), len(other)) <= _LONGEST:
        return text, other
    pairs = enumerate(zip(text, other, strict=False))
    first = next((index for index, (a, b) in pairs if a != b), min(len(text), len(other)))
    start = max(first - _LONGEST // 3, 0)
    return _cut(text, start), _cut(other, start)


def _cut(text: str, start: int) -> str:
    end = start + _LONGEST
    return f"{'...' if start else ''}{text[start:end]}{'...' if len(text) > end else ''}"


def _digits(hashed: str) -> str:
    return hashed[:8] if _HASH.fullmatch(hashed) else hashed
