"""What does a run leave on disk?"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.errors import LimbeckError
from limbeck.models import save


class Folder:
    """A run's folder: ``run.json``, ``metrics.jsonl``, ``checkpoint.safetensors`` and ``student/``.

    Without a path nothing is written. On several ranks only the first writes.

    Args:
        path: The folder, or None.
        resume: Whether it is to be taken up again; otherwise it must not hold a run.
        writes: Whether this process is the one that writes.
        student: Where the student goes, if not into ``student/`` inside the folder.

    Raises:
        LimbeckError: If it already holds a run and `resume` is False.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, *, resume: bool, writes: bool, student: Path | None = None
    ) -> None:
        self.path = Path(path) if path is not None else None
        self._student = student
        self._writes = writes and self.path is not None
        self.started = self.path is not None and (self.path / "run.json").exists()
        if self.path is None:
            return
        if self.path.exists() and not self.path.is_dir():
            raise LimbeckError(f"{self.path} is a file; a run needs a folder.")
        if not resume and self.started:
            raise LimbeckError(
                f"{self.path} already holds a run. Continue it with `limbeck resume {self.path}`, "
                "or choose another folder with --out (out=...)."
            )
        if self._writes:
            self._make(self.path)

    def _make(self, path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LimbeckError(f"{path} cannot be made: {error.strerror}.") from error

    @property
    def metrics(self) -> Path | None:
        """Where the JSON lines go; None where nothing is written."""
        return self.path / "metrics.jsonl" if self.path is not None and self._writes else None

    @property
    def checkpoint(self) -> Path | None:
        """Where the state goes that a resumed run takes up."""
        return self.path / "checkpoint.safetensors" if self.path is not None else None

    @property
    def student(self) -> Path | None:
        """Where the student lies, valid at any moment."""
        return self._student or (self.path / "student" if self.path is not None else None)

    @property
    def writes(self) -> bool:
        """Whether this process writes anything."""
        return self._writes

    def describe(self, description: Mapping[str, Any]) -> None:
        """Write what the run is: recipe, setting, environment."""
        if self._writes and self.path is not None:
            write_json(self.path / "run.json", description)

    def save_student(self, model: nn.Module, metadata: Mapping[str, Any]) -> None:
        """Replace the student, atomically."""
        if self._writes and self.student is not None:
            save(model, self.student, metadata=dict(metadata))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write one JSON object, atomically."""
    beside = path.with_name(path.name + ".partial")
    beside.write_text(json.dumps(value, indent=2, default=str) + "\n", encoding="utf-8")
    os.replace(beside, path)
