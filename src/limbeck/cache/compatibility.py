"""Whether a cache fits the data and the teacher, and the error if it does not."""

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
    "views": "way of making views (views)",
    "teacher": "teacher (teacher)",
    "preprocess": "way of reading a batch (reads)",
    "precision": "precision (precision)",
    "answers": "set of addresses (answers)",
}
_LONGEST = 120
_HASH = re.compile(r"[0-9a-f]{64}")
_UNCHANGED = {"preprocess": "unchanged"}
About = Mapping[str, Any]


def find_mismatch(
    place: Location, manifest: Manifest, found: ManifestDifference, *, about: About | None = None
) -> LimbeckError:
    """A sentence for a store that is not what a run needs: what differs, as far as both sides can be told in words.

    Args:
        place: Where the store is.
        manifest: What it says of itself.
        found: The field that differs, here and there.
        about: What the manifest of the run's own store would say.
    """
    shown = {"data": _data, "views": _views, "teacher": _teachers, "preprocess": _readings}.get(found.field, _values)
    told = shown(found.stored, found.wanted, manifest.about, about or {})
    count = sum(shard.examples for shard in manifest.shards)
    return LimbeckError(
        f"The store at {place.name} was made for another {_FIELDS.get(found.field, found.field)}: it has {told}. Give "
        f"another folder, or remove this one, with its {count:,} answers."
    )


def _beside(stored: str, wanted: str, more: str = "") -> str:
    return f"{stored}, and this run has {wanted}{more}"


def _data(stored: str, wanted: str, theirs: About, ours: About) -> str:
    had, has = theirs.get("examples"), ours.get("examples")
    if had is None or has is None:
        return _beside(_digits(stored), _digits(wanted))
    more = f"{abs(has - had):,} {'more' if has > had else 'fewer'}" if has != had else "as many, with other content"
    labels = "" if has != had else " or labels"
    return _beside(f"{had:,} examples ({_digits(stored)})", f"{has:,} ({_digits(wanted)})", f", {more}{labels}")


def _views(stored: str | None, wanted: str | None, theirs: About, ours: About) -> str:
    def said(hashed: str | None, about: About) -> str:
        if hashed is None:
            return "no augmentation"
        return str(about["views"]) if named else f"{about.get('views') or 'an augmentation'} ({_digits(hashed)})"

    known = [about.get("views") for hashed, about in ((stored, theirs), (wanted, ours)) if hashed is not None]
    named = None not in known and len({*known}) == len(known)
    return _beside(*_apart(said(stored, theirs), said(wanted, ours)))


def _teachers(stored: str, wanted: str, theirs: About, ours: About) -> str:
    one, other = theirs.get("teacher"), ours.get("teacher")
    if not one or not other:
        return _beside(_digits(stored), _digits(wanted))
    more = ""
    if _kind_of(one) == _kind_of(other):
        same = one.get("fingerprint") is not None and one.get("fingerprint") == other.get("fingerprint")
        why = "the same weights: a kind of layer, the adaptor or a way of reading is another"
        more = f", of {why if same else 'other weights'}"
    return _beside(f"{_kind_of(one)} ({_digits(stored)})", f"{_kind_of(other)} ({_digits(wanted)})", more)


def _kind_of(described: About) -> str:
    name = str(described.get("model") or described.get("estimator") or described.get("teacher") or "teacher")
    members = described.get("members")
    several = f" of {len(members)}" if isinstance(members, (list, tuple)) else ""
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}{several}"


def _readings(stored: str | None, wanted: str | None, theirs: About, ours: About) -> str:
    """The first way of reading in which two lists of them differ: the stage's, then the teacher's own."""
    one, other = _ways(stored), _ways(wanted)
    if one is None or other is None:
        return _values(stored, wanted, theirs, ours)
    pairs = enumerate(zip_longest(one, other))
    place, (had, has) = next((found for found in pairs if found[1][0] != found[1][1]), (0, (stored, wanted)))
    named = [isinstance(way, str) and way.partition(" ")[0] for way in (had, has)]
    more = (
        ", of the same name: its code, or a value that it holds, is another" if named[0] and len({*named}) < 2 else ""
    )
    none, own = ("no way of the teacher's own", "the teacher's own ") if place else ("none", "")
    before, now = (f"{own}{way}" if way else none for way in _parted(had, has))
    return _beside(before, now, more)


def _ways(text: str | None) -> list[Any] | None:
    try:
        found = json.loads(text or "")
        return [_UNCHANGED if way is None else _plain(way) for way in found] if isinstance(found, list) else None
    except ValueError:
        return None


def _plain(way: Any) -> Any:
    """A way of reading with values as a mapping; one that is known by its name and a hash, with eight digits of it."""
    try:
        return json.loads(way)
    except (ValueError, TypeError):
        return re.sub(r"\b([0-9a-f]{8})[0-9a-f]{8}$", r"\1", str(way))


def _values(stored: Any, wanted: Any, theirs: About, ours: About) -> str:
    del theirs, ours
    return _beside(*_parted(stored, wanted))


def _parted(stored: Any, wanted: Any) -> tuple[str, str]:
    """Two values: of two mappings of one kind the entries that differ, of two long texts the piece."""
    if not isinstance(stored, Mapping) or not isinstance(wanted, Mapping):
        return _apart(*(_spelled(one, one) if isinstance(one, Mapping) else str(one or "") for one in (stored, wanted)))
    if any(stored.get(key) != wanted.get(key) for key in ("name", "preprocess")):
        return _spelled(stored, stored), _spelled(wanted, wanted)
    return _spelled(stored, _without(stored, wanted)), _spelled(wanted, _without(wanted, stored))


def _without(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if key not in other or other[key] != value}


def _spelled(whole: Mapping[str, Any], shown: Mapping[str, Any]) -> str:
    if whole == _UNCHANGED:
        return "the inputs as they are"
    kind = (
        str(whole.get("name") if "preprocess" not in whole else whole["preprocess"])
        if {"name", "preprocess"} & {*whole}
        else ""
    )
    rest = ", ".join(f"{key}={value}" for key, value in shown.items() if key != "preprocess" and value != kind)
    return f"{kind} with {rest}" if kind and rest else kind or rest


def _apart(one: str, other: str) -> tuple[str, str]:
    """Two texts; of long ones what is around the first place where they part."""
    if max(len(one), len(other)) <= _LONGEST:
        return one, other
    pairs = enumerate(zip(one, other, strict=False))
    first = next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
    start = max(first - _LONGEST // 3, 0)
    return _piece(one, start), _piece(other, start)


def _piece(text: str, start: int) -> str:
    end = start + _LONGEST
    return f"{'...' if start else ''}{text[start:end]}{'...' if len(text) > end else ''}"


def _digits(hashed: str) -> str:
    return hashed[:8] if _HASH.fullmatch(hashed) else hashed
