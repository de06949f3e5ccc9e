"""JSON files, JSON lines and texts that contain their own checksum.

The checksum is part of the file, so both are written by the same rename and copied together. It detects damage, not
forgery: anyone who can write the file can write its checksum. Files of earlier versions have no checksum and are still
read.
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
"""The key in a JSON file with the SHA-256 of all other keys."""
_LINE = "crc32"
_FIRST = "# The last line tells the sha256 of those above it. To edit this file, remove that line and this one.\n"
_LAST = re.compile(r"\n?# sha256 of the lines above: ([0-9a-f]*)\s*\Z")


class Lines(NamedTuple):
    """The content of a file of JSON lines.

    Attributes:
        values: The mappings, in order.
        damaged: How many lines are invalid or changed. An incomplete last line does not count.
    """

    values: list[dict[str, Any]]
    damaged: int


def write_json(value: Mapping[str, Any], path: Path) -> None:
    """Write a mapping as a JSON file with its checksum, atomically. Values unknown to JSON are written as `str`."""
    write_text(json_text(value), path)


def json_text(value: Mapping[str, Any]) -> str:
    """The text that `write_json` writes."""
    body = json.loads(json.dumps(dict(value), default=str))
    return json.dumps({**body, KEY: digest(body)}, indent=2) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """Read the mapping in a JSON file, without its checksum.

    Raises:
        DataError: If the file cannot be read, is not a JSON mapping, or does not match its checksum.
    """
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(body, dict) and KEY in body:
            checksum = body.pop(KEY)
            if checksum != digest(body):
                raise DataError(f"{path} was edited or is damaged: it does not match its SHA-256.")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged and cannot be read: {_reason(error)}.") from error
    if not isinstance(body, dict):
        raise DataError(f"{path} is damaged: it contains a {type(body).__name__} instead of a mapping.")
    return body


def has_checksum(path: Path) -> bool:
    """Whether a JSON file contains a checksum."""
    try:
        return f'"{KEY}"' in path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False


def json_line(value: Mapping[str, Any], *, allow_nan: bool = True) -> str:
    """A mapping as one line of JSON with its checksum and a line break."""
    body = json.loads(json.dumps(dict(value), allow_nan=allow_nan))
    return json.dumps({**body, _LINE: _crc(body)}) + "\n"


def append_line(value: Mapping[str, Any], path: Path) -> None:
    """Append a `json_line` to a file. An incomplete last line is removed first."""
    before = path.read_bytes() if path.is_file() else b""
    if before and not before.endswith(b"\n"):
        truncate(path, before.rfind(b"\n") + 1)
    append_text(json_line(value, allow_nan=False), path)


def read_lines(path: Path) -> Lines:
    """Read a file of JSON lines; a missing file has none.

    Raises:
        DataError: If the file exists and cannot be read.
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
    """Add a last line with the checksum of the lines above, and a first line that explains it, as YAML comments."""
    text = _FIRST + text
    return f"{text}# sha256 of the lines above: {hashlib.sha256(text.encode()).hexdigest()}\n"


def is_unchanged(text: str) -> bool | None:
    """Whether a text matches its checksum line; None if it has no checksum lines."""
    match = _LAST.search(text)
    if match is None:  # the first line is there, so the last one was lost
        return False if text.startswith(_FIRST) else None
    start = match.start() + match[0].startswith("\n")
    return hashlib.sha256(text[:start].encode(errors="replace")).hexdigest() == match[1]


def digest(body: Mapping[str, Any]) -> str:
    """The SHA-256 of JSON values, independent of key order and whitespace."""
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
        return "it is nested too deeply"
    reason = error.strerror if isinstance(error, OSError) else None
    return str(reason or error).rstrip(".")
