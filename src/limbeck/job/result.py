"""Reading a run's `result.json`."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.checksums import read_json
from limbeck.errors import DataError, LimbeckError
from limbeck.job.run_layout import RunLayout
from limbeck.tasks import Task, task_from_dict

_LARGEST = 2**63
"""Larger integers are no measured values and are read as None."""


def read_result(folder: Path, *, arms: bool = True) -> dict[str, Any]:
    """Read and clean the result in a run's folder.

    ``arms`` is a mapping of mappings; ``verdict``, its ``against`` and ``methods``, and ``data`` are mappings, empty
    if the file lacks them; numbers are finite or None; strings contain no control characters. The file may come from
    a stranger, so nothing of this is taken for granted.

    Args:
        folder: The run's folder.
        arms: Whether the result must have arms.

    Raises:
        DataError: If the file cannot be read, is not a mapping, or lacks the arms.
    """
    path = RunLayout(folder).result
    try:
        result = _plain(read_json(path))
    except DataError as error:
        raise DataError(f"{error} {_then(folder)}") from error
    rows = _mapping(result.get("arms"))
    whole = bool(rows) and all(isinstance(row, dict) for row in rows.values())
    if arms and not whole:
        raise DataError(f"{path} has no arms, so it is not the result of a job. {_then(folder)}")
    verdict = _mapping(result.get("verdict"))
    for key in ("against", "methods"):
        if key in verdict:
            verdict[key] = {name: one for name, one in _mapping(verdict[key]).items() if isinstance(one, dict)}
    if "arm" in verdict:
        verdict["arm"] = str(verdict["arm"])
    return {**result, "arms": rows if whole else {}, "verdict": verdict, "data": _mapping(result.get("data"))}


def read_task(result: Mapping[str, Any]) -> Task:
    """Read the task of a result; classification for results without one, and for tasks of later versions.

    Args:
        result: The result of a job.
    """
    values = result.get("task")
    try:
        return task_from_dict(values if isinstance(values, Mapping) else None)
    except (LimbeckError, TypeError, ValueError):
        return task_from_dict(None)


def list_custom_metrics(result: Mapping[str, Any]) -> list[str]:
    """List the user's own metrics in a result: all that are not limbeck's.

    Args:
        result: The result of a job.
    """
    known = read_task(result).metrics
    rows = (_mapping(_mapping(row).get("measures")) for row in _mapping(result.get("arms")).values())
    return list(dict.fromkeys(str(name) for row in rows for name in row if name not in known))


def read_size_notes(result: Mapping[str, Any]) -> list[str]:
    """Read the notes on the sizes of arms, each without a full stop.

    Args:
        result: The result of a job.
    """
    rows = {name: _mapping(row).get("size_note") for name, row in _mapping(result.get("arms")).items()}
    return [f"{name}: {note}" for name, note in rows.items() if isinstance(note, str)]


def is_run(folder: Path) -> bool:
    """Whether the folder is a run of a job. A job file alone is not enough: it may lie beside the runs."""
    return RunLayout(folder).job.is_file() and RunLayout(folder).student.is_dir()


def _then(folder: Path) -> str:
    """What to do about an unreadable result: `limbeck resume` writes it again from the arms' own files."""
    if RunLayout(folder).job.is_file() and RunLayout(folder).outcomes.is_file():
        return f"Remove it and type `limbeck resume {folder}`, which writes it again from the results of the arms."
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
    """Remove control characters, which could control a terminal."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")
