"""Converts arrays to tensors and checks types, finite values and labels."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.batch import IGNORED
from limbeck.errors import DataError, one_hot_labels_error

_CHUNK = 1 << 24  # numbers per chunk, so that checking a large memory map needs little memory

_WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}


def tensor_from(array: Any, what: str) -> Tensor:
    """Convert an array of numbers to a tensor, without a copy where possible.

    Unsigned integers of 16 bits and more become wider signed ones; other types stay.

    Raises:
        DataError: If `array` is not a rectangular array of numbers with at least one axis.
    """
    if isinstance(array, Tensor):
        tensor = array.detach()
    elif hasattr(array, "__array__"):
        tensor = _from_numpy(array if isinstance(array, np.ndarray) else np.asarray(array), what)
    else:
        raise DataError(f"{what} is a {type(array).__name__}; pass a tensor or a numpy array (numpy.asarray(...)).")
    if tensor.ndim == 0:
        raise DataError(f"{what} is a single number; the first dimension must be the number of examples.")
    if tensor.layout is not torch.strided:
        raise DataError(f"{what} is a {tensor.layout} tensor; pass a dense one (x.to_dense()).")
    # PyTorch supports few operations on uint16, uint32 and uint64.
    return tensor.to(_WIDER[tensor.dtype]) if tensor.dtype in _WIDER else tensor


def _from_numpy(array: np.ndarray, what: str) -> Tensor:
    if array.dtype.kind not in "biufc":
        kind = {"O": "Python objects", "U": "text", "S": "bytes"}.get(array.dtype.kind, str(array.dtype))
        raise DataError(f"{what} contains {kind}, not numbers (dtype {array.dtype}); convert it before training.")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    try:
        with warnings.catch_warnings():
            # Read-only arrays, such as memory maps, are fine: rows are copied, never written to.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(array)
    except TypeError as error:
        raise DataError(f"{what} has dtype {array.dtype}, which PyTorch does not support; convert it first.") from error


def check_finite(column: Tensor, what: str) -> None:
    """Check a column for NaN and infinity.

    Raises:
        DataError: If there are any. The message has the number of rows and the first one.
    """
    if not (column.is_floating_point() or column.is_complex()):
        return
    bad, first, start = 0, -1, 0
    for chunk in chunks(column):
        rows = ~torch.isfinite(chunk).flatten(1).all(1) if chunk.ndim > 1 else ~torch.isfinite(chunk)
        count = int(rows.sum())
        if count and first < 0:
            first = start + int(rows.nonzero()[0])
        bad, start = bad + count, start + len(chunk)
    if bad:
        raise DataError(f"{what} contains NaN or infinity in {bad} of {len(column)} rows, first in row {first}.")


def labels_from(array: Any, *, classes: tuple[str, ...] | None) -> Tensor:
    """Convert labels to int64 class indices; -100 means no label.

    Raises:
        DataError: If a label is not a whole number, is negative but not -100, or has no name in `classes`.
    """
    labels = tensor_from(np.asarray(array) if isinstance(array, (list, tuple)) else array, "labels")
    if labels.is_floating_point():
        wrong = ~(torch.isfinite(labels) & (labels == labels.round()))
        if bool(wrong.any()) and labels.ndim > 1:
            raise one_hot_labels_error(labels.shape)
        if bool(wrong.any()):
            raise DataError(f"labels must be class indices (whole numbers), but {_format_first(labels, wrong)}.")
    elif labels.is_complex():
        raise DataError("labels must be class indices (whole numbers); these are complex numbers.")
    labels = labels.to(torch.int64)
    wrong = (labels < 0) & (labels != IGNORED)
    if bool(wrong.any()):
        raise DataError(
            f"labels must be class indices from 0, or -100 for no label, but {_format_first(labels, wrong)}."
        )
    if classes is not None and bool((wrong := labels >= len(classes)).any()):
        raise DataError(
            f"there are {len(classes)} class names, so labels must be at most {len(classes) - 1}, but "
            f"{_format_first(labels, wrong)}."
        )
    return labels


def _format_first(values: Tensor, wrong: Tensor) -> str:
    where = wrong.nonzero()[0]
    return f"row {int(where[0])} has {values[tuple(where)].item()}"


def column_from(array: Any, what: str) -> Tensor | tuple[Any, ...]:
    """Convert an extra column: to a tensor if it contains numbers, else to a tuple (of strings, for example).

    Raises:
        DataError: If it is an array of Python objects or not a sequence.
    """
    if isinstance(array, np.ndarray) and array.dtype.kind in "US":
        return tuple(array.tolist())
    if isinstance(array, Tensor) or hasattr(array, "__array__"):
        return tensor_from(array, what)
    if isinstance(array, Sequence) and not isinstance(array, (str, bytes)):
        return tuple(array)
    raise DataError(
        f"{what} is a {type(array).__name__}; pass a tensor, a numpy array or a list with one entry per example."
    )


def chunks(column: Tensor) -> Iterator[Tensor]:
    """Split a column into chunks of rows of bounded size."""
    width = max(column[0].numel(), 1) if len(column) else 1
    yield from column.split(max(_CHUNK // width, 1))


def hash_columns(*columns: tuple[str, Any]) -> str:
    """SHA-256 (hex) of the name, type, shape and bytes of each column; a column may be None."""
    total = hashlib.sha256()
    for name, column in columns:
        if isinstance(column, Tensor):
            total.update(f"{name}|{column.dtype}|{list(column.shape)}|".encode())
            for chunk in chunks(column):
                total.update(chunk.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        else:
            total.update(f"{name}|{column!r}|".encode())
    return total.hexdigest()
