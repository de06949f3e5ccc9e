"""What does a finished run's ``result.json`` say, as far as it can be believed?"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.errors import DataError

RESULT = "result.json"
_LARGEST = 2**63
"""No count is larger; an integer of four hundred digits is no number that anyone measured."""


def read_result(folder: Path) -> dict[str, Any]:
    """The result in a run's folder, of the shape that a comparison writes, whoever has written it.

    ``arms`` is a mapping of mappings and not empty; ``verdict``, its ``against`` and its ``methods``, and ``data`` are
    mappings, empty where the file has none; numbers are finite, or None.

    Raises:
        DataError: If it cannot be read, or names no arms.
    """
    path = folder / RESULT
    try:
        found = _plain(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, OSError, RecursionError) as error:
        raise DataError(f"{path} is damaged and cannot be read: {error}. {_then(folder)}") from error
    arms = found.get("arms") if isinstance(found, dict) else None
    if not isinstance(arms, dict) or not arms or not all(isinstance(arm, dict) for arm in arms.values()):
        raise DataError(f"{path} names no arms, so it is no job's result. {_then(folder)}")
    verdict = _mapping(found.get("verdict"))
    for key in ("against", "methods"):
        if key in verdict:
            verdict[key] = {name: one for name, one in _mapping(verdict[key]).items() if isinstance(one, dict)}
    if "arm" in verdict:
        verdict["arm"] = str(verdict["arm"])
    return {**found, "verdict": verdict, "data": _mapping(found.get("data"))}


def _then(folder: Path) -> str:
    """A run's arms are noted one by one: what is said of them all can be said again."""
    if (folder / "job.yaml").is_file() and (folder / "metrics.jsonl").is_file():
        return f"Remove it and type `limbeck resume {folder}`, which makes it again from what every arm left."
    return "Run the job again into another folder."


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return None if isinstance(value, int) and abs(value) >= _LARGEST else value
