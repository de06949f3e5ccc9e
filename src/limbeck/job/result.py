"""Reading a run's `result.json`."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.checksums import read_json
from limbeck.errors import DataError
from limbeck.metrics import METRICS

RESULT = "result.json"
_LARGEST = 2**63
"""No count is larger; an integer of four hundred digits is no number that anyone measured."""


def read_result(folder: Path, *, arms: bool = True) -> dict[str, Any]:
    """The result in a run's folder, of the shape that a comparison writes, whoever has written it.

    ``arms`` is a mapping of mappings; ``verdict``, its ``against`` and its ``methods``, and ``data`` are
    mappings, empty where the file has none; numbers are finite, or None; text holds no control characters.

    Args:
        folder: The run's.
        arms: Whether it must name any.

    Raises:
        DataError: If it cannot be read, is no mapping, or names no arms where it must.
    """
    path = folder / RESULT
    try:
        result = _plain(read_json(path))
    except DataError as error:
        raise DataError(f"{error} {_then(folder)}") from error
    rows = _mapping(result.get("arms"))
    whole = bool(rows) and all(isinstance(row, dict) for row in rows.values())
    if arms and not whole:
        raise DataError(f"{path} names no arms, so it is no job's result. {_then(folder)}")
    verdict = _mapping(result.get("verdict"))
    for key in ("against", "methods"):
        if key in verdict:
            verdict[key] = {name: one for name, one in _mapping(verdict[key]).items() if isinstance(one, dict)}
    if "arm" in verdict:
        verdict["arm"] = str(verdict["arm"])
    return {**result, "arms": rows if whole else {}, "verdict": verdict, "data": _mapping(result.get("data"))}


def list_custom_metrics(result: Mapping[str, Any]) -> list[str]:
    """The metrics of a person's own that a result's arms were measured by: all that limbeck does not measure itself.

    Args:
        result: What a job came to.
    """
    rows = (_mapping(_mapping(row).get("measures")) for row in _mapping(result.get("arms")).values())
    return list(dict.fromkeys(str(name) for row in rows for name in row if name not in METRICS))


def read_size_notes(result: Mapping[str, Any]) -> list[str]:
    """Why the sizes of some arms are not what stands there for others, a sentence without its full stop for each.

    Args:
        result: What a job came to.
    """
    rows = {name: _mapping(row).get("size_note") for name, row in _mapping(result.get("arms")).items()}
    return [f"{name}: {note}" for name, note in rows.items() if isinstance(note, str)]


def is_run(folder: Path) -> bool:
    """Whether a job's run lies here; a job file alone may be anyone's, beside the runs that it is of."""
    return (folder / "job.yaml").is_file() and (folder / "student").is_dir()


def _then(folder: Path) -> str:
    """A run's arms are noted one by one: what is said of them all can be said again."""
    if (folder / "job.yaml").is_file() and (folder / "metrics.jsonl").is_file():
        return f"Remove it and type `limbeck resume {folder}`, which makes it again from what every arm left."
    return "Run the job again into another folder."


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_spoken(key): _plain(one) for key, one in value.items()}
    if isinstance(value, str):
        return _spoken(value)
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return None if isinstance(value, int) and abs(value) >= _LARGEST else value


def _spoken(text: str) -> str:
    """Without characters that command a terminal and stand for nothing that is read."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")
