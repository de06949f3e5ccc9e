"""`RunFolder`: the files of a run, and the lock on them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.atomic_io import folder_lock, make_folder, remove, replace_folder
from limbeck.checksums import read_json, write_json
from limbeck.engine.train_config import Fabric
from limbeck.errors import DataError, LimbeckError
from limbeck.models import OtherModelError, save


class RunFolder:
    """A run's folder: ``run.json``, ``metrics.jsonl``, ``checkpoint.safetensors`` and ``student/``.

    Without a path nothing is written. On several ranks only the first writes.

    Args:
        path: The folder, or None.
        resume: Whether to resume the run in the folder; otherwise it must not hold a run.
        writes: Whether this process writes.
        student: The student's folder; ``student/`` inside the run's folder by default.

    Raises:
        LimbeckError: If the folder already holds a run and `resume` is False.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, *, resume: bool, writes: bool, student: Path | None = None
    ) -> None:
        self.path = Path(path) if path is not None else None
        self._student = student
        self._writes = writes and self.path is not None
        self.started = self.path is not None and (self.path / "run.json").exists()
        self._own_student = False
        self._files_at_exit: list[tuple[int, int, int]] | None = None
        if self.path is None:
            return
        if self.path.exists() and not self.path.is_dir():
            raise LimbeckError(f"{self.path} is a file; a run needs a folder.")
        if not resume and self.started:
            raise LimbeckError(
                f"{self.path} already holds a run. Continue it with resume=True: distill(..., out={str(self.path)!r}, "
                "resume=True). Or choose another folder: out=..."
            )
        if self._writes:
            make_folder(self.path)

    @contextmanager
    def alone(self, fabric: Fabric) -> Iterator[None]:
        """A block with a lock on the folder; no other run may have used it since this one last did.

        The first rank checks and sends the result to all.

        Raises:
            LimbeckError: If another run uses the folder, or has used it.
        """
        with ExitStack() as stack:
            refused = None
            if self._writes and self.path is not None:
                try:
                    stack.enter_context(folder_lock(self.path))
                    self._check_untouched(self.path)
                except LimbeckError as error:
                    refused = str(error)
            if fabric.world_size > 1 and self.path is not None:
                refused = fabric.broadcast(refused)
            if refused is not None:
                raise LimbeckError(refused)
            try:
                yield
            finally:
                self._files_at_exit = self._state()

    def _check_untouched(self, path: Path) -> None:
        if self._files_at_exit is not None and self._files_at_exit != self._state():
            raise LimbeckError(
                f"Another run has continued in {path} since this one last used it. Resume from there with "
                "distill(..., resume=True)."
            )

    def _state(self) -> list[tuple[int, int, int]]:
        """Modification times and sizes of the folder's files, which change with every checkpoint and report."""
        names = ("run.json", "metrics.jsonl", "checkpoint.safetensors")
        files = [os.stat(self.path / name) for name in names if (self.path / name).exists()] if self.path else []
        return [(file.st_ino, file.st_mtime_ns, file.st_size) for file in files]

    @property
    def metrics(self) -> Path | None:
        """The file of JSON lines; None if nothing is written."""
        return self.path / "metrics.jsonl" if self.path is not None and self._writes else None

    @property
    def checkpoint(self) -> Path | None:
        """The file with the state that a resumed run continues from."""
        return self.path / "checkpoint.safetensors" if self.path is not None else None

    @property
    def student(self) -> Path | None:
        """The student's folder, complete at any moment."""
        return self._student or (self.path / "student" if self.path is not None else None)

    @property
    def writes(self) -> bool:
        """Whether this process writes anything."""
        return self._writes

    def describe(self, description: Mapping[str, Any]) -> None:
        """Write the description of the run: recipe, settings, data, environment."""
        if self._writes and self.path is not None:
            write_json(description, self.path / "run.json")

    def check_same(self, description: Mapping[str, Any]) -> None:
        """Refuse to resume a run with another recipe, settings or data, because its weights would belong to neither.

        Raises:
            LimbeckError: If recipe, setting or data differ from those in ``run.json``; the first field is named.
            DataError: If there is a checkpoint without a ``run.json`` that describes its run.
        """
        if self.path is None:
            return
        if not self.started:
            if self.checkpoint is not None and self.checkpoint.exists():
                raise DataError(
                    f"{self.path} is damaged: run.json is missing, so the run of its checkpoint is unknown. "
                    "Remove the folder to start the run again."
                )
            return
        now = json.loads(json.dumps(description, default=str))
        before = read_json(self.path / "run.json")
        for part in ("recipe", "functions", "setting", "data", "batch_sizes", "contents"):
            if part in ("batch_sizes", "contents") and part not in before:
                continue  # written by a version that did not hash functions
            difference = _difference(part, before.get(part), now.get(part))
            if difference is not None:
                field, old, new = difference
                raise LimbeckError(
                    f"{self.path} belongs to another run: {field} was {old!r} and is {new!r}. "
                    "Resume it with its old settings, or start in a new folder."
                )

    def save_student(self, model: nn.Module, metadata: Mapping[str, Any], tokenizer: Any = None) -> None:
        """Replace the student atomically.

        Args:
            model: The model to write.
            metadata: Further entries of its ``config.json``.
            tokenizer: The tokenizer of its texts. Its files are written once.
        """
        if not self._writes or self.student is None:
            return
        try:
            save(model, self.student, metadata=dict(metadata), tokenizer=None if self._own_student else tokenizer)
        except OtherModelError:
            # A recipe may change the student's structure, so its own folder may be replaced; that of another run never
            # is.
            if not (self.started or self._own_student):
                raise
            _swap_folder(self.student, model, metadata, tokenizer)
        self._own_student = True


def _swap_folder(folder: Path, model: nn.Module, metadata: Mapping[str, Any], tokenizer: Any) -> None:
    """Replace a model folder by one with another structure."""
    new = folder.with_name(f".{folder.name}.new.partial")
    remove(new)
    save(model, new, metadata=dict(metadata), tokenizer=tokenizer)
    replace_folder(new, folder)


def _difference(name: str, old: Any, new: Any) -> tuple[str, Any, Any] | None:
    """The first field in which two descriptions differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(f"{name}.{key}", old.get(key), new.get(key)) for key in {**old, **new}]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(f"{name}.{i}", *both) for i, both in enumerate(zip(old, new, strict=True))]
    else:
        return None if old == new else (name, old, new)
    return next((difference for pair in pairs if (difference := _difference(*pair)) is not None), None)
