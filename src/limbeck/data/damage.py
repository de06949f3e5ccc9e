"""Finds damaged files: reads every example once and reports all failures in one error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from limbeck.data.dataset import Dataset
from limbeck.errors import DataError

_NAMED = 5


class DamagedFileError(DataError):
    """An image file that cannot be decoded.

    Args:
        path: The file.
        reason: What is wrong with it.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"The image {path} cannot be decoded ({reason}); repair or remove it.")
        self.path = path
        self.reason = reason


def verify(parts: Iterable[Dataset], *, progress: Callable[[int, int], None] = lambda done, of: None) -> None:
    """Read every example once, in datasets that read files on access.

    Args:
        parts: The datasets.
        progress: Called with the number of examples read so far and the total.

    Raises:
        DataError: If some cannot be read. The message has their number and the first five.
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
    """Raise one error for all failed examples, out of `count`; do nothing if `failed` is empty.

    Raises:
        DataError: With the number of failures and the first five.
    """
    if len(failed) == 1:
        raise failed[0]
    if failed:
        named = ", ".join(_describe(error) for error in failed[:_NAMED])
        more = f", and {len(failed) - _NAMED:,} more" if len(failed) > _NAMED else ""
        raise DataError(f"{len(failed):,} of {count:,} images cannot be decoded: {named}{more}. Repair or remove them.")


def _describe(error: DataError) -> str:
    return f"{error.path} ({error.reason})" if isinstance(error, DamagedFileError) else str(error).rstrip(".")
