"""`ScoreFiles`: scores of texts on disk, a file for each text, for all processes of a job."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import final
from zipfile import BadZipFile

import numpy as np

from limbeck.atomic_io import write_bytes
from limbeck.teachers.served.scoring import ScoredText


@final
class ScoreFiles:
    """Scores of texts in a folder. Any number of processes may read and write it.

    A file that is damaged counts as missing. Nothing is written as long as the folder above does not exist: a job makes
    its own after all checks.

    Args:
        folder: The folder.
        teacher: The fingerprint of the teacher, whose scores have a folder of their own.
    """

    def __init__(self, folder: str | os.PathLike[str], teacher: str) -> None:
        self._above, self._folder = Path(folder).parent, Path(folder) / teacher[:16]

    def _path(self, key: bytes) -> Path:
        return self._folder / key.hex()[:2] / f"{key.hex()}.npz"

    def read(self, key: bytes) -> ScoredText | None:
        """The scores of a text; None if there are none."""
        try:
            with np.load(io.BytesIO(self._path(key).read_bytes()), allow_pickle=False) as stored:
                return ScoredText(stored["ids"], stored["log_probs"], stored["own"])
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None

    def write(self, key: bytes, scored: ScoredText) -> None:
        """Keep the scores of a text."""
        path = self._path(key)
        if path.exists() or not self._above.is_dir():
            return
        content = io.BytesIO()
        np.savez_compressed(content, ids=scored.ids, log_probs=scored.log_probs, own=scored.own)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(content.getvalue(), path)
