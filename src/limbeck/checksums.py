"""JSON files, lines and texts that carry a checksum of themselves, so that damage is noticed by whoever reads them.

The checksum is in the file, not beside it: a file and its checksum appear by the same rename, and go together where the
file goes. It tells damage, not a forger: who can write the file can write its checksum. Files of earlier versions have
none, and are read.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.atomic_io import append_text, truncate, write_text
from limbeck.errors import DataError

KEY = "sha256"
"""Of a JSON file: the SHA-256 of all its other keys."""
_LINE = "crc32"
_FIRST = "# The last line tells the sha256 of those above it. To edit this file, remove that line and this one.\n"
_LAST = re.compile(r"\n?# sha256 of the lines above: ([0-9a-f]*)\s*\Z")


class Lines(NamedTuple):
    """What a file of JSON lines holds.

    Attributes:
        values: The mappings in it, in order.
        damaged: How many lines are none, or are not what was written; a last one that a kill cut short does not count.
    """

    values: list[dict[str, Any]]
    damaged: int


def write_json(value: Mapping[str, Any], path: Path) -> None:
    """Write a mapping as a JSON file, whole, with its checksum as the last key; another value becomes its text."""
    write_text(json_text(value), path)


def json_text(value: Mapping[str, Any]) -> str:
    """What `write_json` writes."""
    body = json.loads(json.dumps(dict(value), default=str))
    return json.dumps({**body, KEY: digest(body)}, indent=2) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file, without its checksum.

    Raises:
        DataError: If it cannot be read, is no JSON mapping, or is not what was written.
    """
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(body, dict) and KEY in body:
            checksum = body.pop(KEY)
            if checksum != digest(body):
                raise DataError(f"{path} was edited or is damaged: its SHA-256 is not the one in it.")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged and cannot be read: {_reason(error)}.") from error
    if not isinstance(body, dict):
        raise DataError(f"{path} is damaged: it holds a {type(body).__name__}, where keys and values belong.")
    return body


def has_checksum(path: Path) -> bool:
    """Whether a JSON file says which checksum it has."""
    try:
        return f'"{KEY}"' in path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False


def json_line(value: Mapping[str, Any], *, allow_nan: bool = True) -> str:
    """A mapping as one line of JSON with its checksum, and the end of the line."""
    body = json.loads(json.dumps(dict(value), allow_nan=allow_nan))
    return json.dumps({**body, _LINE: _crc(body)}) + "\n"


def append_line(value: Mapping[str, Any], path: Path) -> None:
    """Add `json_line` to a file; a last line that a kill cut short is removed first."""
    before = path.read_bytes() if path.is_file() else b""
    if before and not before.endswith(b"\n"):
        truncate(path, before.rfind(b"\n") + 1)
    append_text(json_line(value, allow_nan=False), path)


def read_lines(path: Path) -> Lines:
    """What `json_line` wrote into a file; empty where there is none.

    Raises:
        DataError: If it is there and cannot be read.
    """
    try:
        text = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise DataError(f"{path} cannot be read: {_reason(error)}.") from error
    lines = [line for line in text.split(b"\n") if line.strip()]
    values = [value for line in lines if (value := _value(line)) is not None]
    cut = bool(lines) and not text.endswith(b"\n") and _value(lines[-1]) is None
    return Lines(values, len(lines) - len(values) - cut)


def add_checksum_line(text: str) -> str:
    """A text of lines with a last one that tells the checksum of those above, and a first that says so, as YAML."""
    text = _FIRST + text
    return f"{text}# sha256 of the lines above: {hashlib.sha256(text.encode()).hexdigest()}\n"


def is_unchanged(text: str) -> bool | None:
    """Whether a text is still what `signed` gave; None where it has neither such a first line nor such a last one."""
    match = _LAST.search(text)
    if match is None:  # where only the last line is missing, more may be
        return False if text.startswith(_FIRST) else None
    start = match.start() + match[0].startswith("\n")
    return hashlib.sha256(text[:start].encode(errors="replace")).hexdigest() == match[1]


def digest(body: Mapping[str, Any]) -> str:
    """The SHA-256 of JSON values, whatever the order of their keys and the space between."""
    return hashlib.sha256(_canonical(body)).hexdigest()


def _value(line: bytes) -> dict[str, Any] | None:
    try:
        body = json.loads(line)
        checksum = body.pop(_LINE, None)
        return body if checksum is None or checksum == _crc(body) else None
    except (ValueError, RecursionError, AttributeError, TypeError):
        return None


def _crc(body: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(_canonical(body)):08x}"


def _canonical(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "its brackets are nested too deep"
    return str(getattr(error, "strerror", None) or error).rstrip(".")
