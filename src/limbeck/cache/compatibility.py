"""Checks whether a cache fits the data and the teacher, and makes the error if it does not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from limbeck.cache.location import Location
from limbeck.cache.manifest import Manifest, ManifestDifference
from limbeck.errors import LimbeckError

_FIELDS = {
    "data": "data set (data)",
    "views": "augmentation (views)",
    "teacher": "teacher (teacher)",
    "preprocess": "preprocessing (preprocess)",
    "precision": "precision (precision)",
    "answers": "set of addresses (answers)",
}
_LONGEST = 120
_HASH = re.compile(r"[0-9a-f]{64}")
_UNCHANGED = {"preprocess": "unchanged"}
About = Mapping[str, Any]


def find_mismatch(
    location: Location, manifest: Manifest, difference: ManifestDifference, *, about: About | None = None
) -> LimbeckError:
    """The error for a cache that a run cannot use: it says what differs, in words as far as possible.

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
        f"{text}. Use another folder, or remove this one, with its {count:,} outputs."
    )


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
