"""Damaged examples: all parts of a data set are read once, and all that cannot be read is reported in one error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from limbeck.data.dataset import Dataset
from limbeck.errors import DataError

_NAMED = 5


class DamagedFileError(DataError):
    """A file of one example that cannot be read.

    Args:
        path: The file.
        reason: What is wrong with it.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"The picture {path} cannot be decoded ({reason}); mend it or remove it.")
        self.path = path
        self.reason = reason


def verify(parts: Iterable[Dataset], *, progress: Callable[[int, int], None] = lambda done, of: None) -> None:
    """Read every example of some parts once, those that lie in files that are read as they are needed.

    Args:
        parts: The parts.
        progress: Called with how many were read, of how many.

    Raises:
        DataError: If some cannot be read: how many, and the first five.
    """
    file_parts = [part for part in parts if part.reads_files]
    total, done = sum(map(len, file_parts)), 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(done, total)

    failed = [error for part in file_parts for error in part.find_damaged(torch.arange(len(part)), progress=count)]
    raise_damaged(failed, total)


def raise_damaged(failed: Sequence[DataError], count: int) -> None:
    """Raise one error for all that could not be read of so many examples; nothing where `failed` is empty.

    Raises:
        DataError: How many they are, and the first five.
    """
    if len(failed) == 1:
        raise failed[0]
    if failed:
        named = ", ".join(_describe(error) for error in failed[:_NAMED])
        more = f", and {len(failed) - _NAMED:,} more" if len(failed) > _NAMED else ""
        raise DataError(
            f"{len(failed):,} of {count:,} pictures cannot be decoded: {named}{more}. Mend them or remove them."
        )


def _describe(error: DataError) -> str:
    return f"{error.path} ({error.reason})" if isinstance(error, DamagedFileError) else str(error).rstrip(".")
