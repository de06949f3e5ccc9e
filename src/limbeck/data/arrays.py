"""`ArrayDataset`: a dataset of arrays in memory or in a memory map."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from limbeck.batch import IGNORED, Batch, count_rows, input_rows, sequence_like
from limbeck.data.dataset import Dataset, chunks, hash_columns
from limbeck.errors import NUMBERS_TO_PREDICT, DataError, one_hot_labels_error


@final
class ArrayDataset(Dataset):
    """Dataset of arrays in memory or in a memory map; row i of each array belongs to example i.

    Arrays are not converted: bytes stay bytes, and a memory map stays on disk. Only the rows of a batch are copied.

    Args:
        inputs: The model inputs: a tensor or numpy array, or a tuple or mapping of them.
        labels: Class indices ``[n]`` or ``[n, *positions]``; -100 means no label.
        mask: True where a value counts in the loss, ``[n]`` or ``[n, *positions]``.
        extra: Additional columns by name: arrays of numbers, or sequences of any objects.
        class_names: The name of each class.

    Raises:
        DataError: If there are no examples, lengths differ, floating-point inputs contain NaN or infinity, or labels
            are not class indices.

    Example:
        >>> import torch
        >>> data = ArrayDataset(torch.zeros(4, 28, 28, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
        >>> data.take(torch.tensor([3])).labels
        tensor([1])
    """

    def __init__(
        self,
        inputs: Any,
        labels: Any = None,
        *,
        mask: Any = None,
        extra: Mapping[str, Any] | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.class_names = None if class_names is None else tuple(str(name) for name in class_names)
        self._inputs = _inputs(inputs)
        self.labels = None if labels is None else labels_from(labels, classes=self.class_names)
        self._mask = None if mask is None else tensor_from(mask, "mask").bool()
        self._extra = {name: column_from(column, f"extra[{name!r}]") for name, column in (extra or {}).items()}
        targets = self._extra.get("targets")
        self.targets = targets if isinstance(targets, Tensor) else None
        self._size = _common_length(self._columns())
        for name, column in _named(self._inputs):
            check_finite(column, name)

    def __len__(self) -> int:
        return self._size

    def take(self, index: Int[Tensor, " n"]) -> Batch:
        """Return the rows `index` of every column."""
        labels, mask = (None if column is None else count_rows(column, index) for column in (self.labels, self._mask))
        return Batch(input_rows(self._inputs, index), index, None, labels, mask, count_rows(self._extra, index))

    def extra_column(self, name: str) -> Any:
        """The values of an extra column, or of ``labels``, of all examples; None if there is no such column."""
        return self._extra[name] if name in self._extra else super().extra_column(name)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of every column's type, shape and bytes, and of the class names.

        The groups of a table are left out, unless `hash_groups` was called: they are for a metric.
        """
        columns = [(name, column) for name, column in self._columns() if name not in self._unhashed]
        return hash_columns(("arrays", type(self._inputs).__name__), *columns, ("class_names", self.class_names))

    _unhashed: frozenset[str] = frozenset()

    def leave_out_groups(self) -> None:
        """Leave the column ``groups`` out of the fingerprint: with it, the same examples are trained on."""
        self._unhashed = frozenset({"extra['groups']"})
        self.__dict__.pop("fingerprint", None)

    def hash_groups(self) -> None:
        """Let the column ``groups`` be a part of the fingerprint again, for routes to teachers that read it."""
        self._unhashed = frozenset()
        self.__dict__.pop("fingerprint", None)

    @property
    def inputs(self) -> Any:
        """The inputs as tensors: one, or a tuple or mapping of them."""
        return self._inputs

    def _columns(self) -> list[tuple[str, Any]]:
        own = [("labels", self.labels), ("mask", self._mask)]
        return [*_named(self._inputs), *own, *((f"extra[{k!r}]", v) for k, v in self._extra.items())]


def _inputs(inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        columns: Any = {str(name): tensor_from(column, f"inputs[{name!r}]") for name, column in inputs.items()}
    elif isinstance(inputs, tuple):
        columns = sequence_like(inputs, (tensor_from(part, f"inputs[{i}]") for i, part in enumerate(inputs)))
    else:
        return tensor_from(inputs, "inputs")
    if not columns:
        raise DataError("inputs is empty. Pass at least one array.")
    return columns


def _named(inputs: Any) -> list[tuple[str, Tensor]]:
    if isinstance(inputs, Mapping):
        return [(f"inputs[{name!r}]", column) for name, column in inputs.items()]
    if isinstance(inputs, tuple):
        return [(f"inputs[{i}]", column) for i, column in enumerate(inputs)]
    return [("inputs", inputs)]


def _common_length(columns: list[tuple[str, Any]]) -> int:
    sizes = {name: len(column) for name, column in columns if column is not None}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise DataError(f"All columns must have the same length, but {listed}.")
    size = next(iter(sizes.values()))
    if size == 0:
        raise DataError("There are no examples: the arrays have length 0.")
    return size


_WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}


def as_dataset(data: Any) -> Dataset | None:
    """Convert arrays to a dataset, as in `as_loader`; None for other data."""
    if isinstance(data, Dataset):
        return data
    if is_array(data):
        return ArrayDataset(data)
    if isinstance(data, tuple) and len(data) == 2 and _is_columns(data[0]) and _is_labels(data[1]):
        return ArrayDataset(*data)
    if _is_columns(data) and isinstance(data, Mapping):
        columns = dict(data)
        return (
            ArrayDataset(columns, labels=columns.pop("labels", None))
            if len(columns) > 1 or "labels" not in columns
            else None
        )
    return None


def is_array(data: Any) -> bool:
    """Whether `data` is a tensor or a numpy array."""
    return isinstance(data, (Tensor, np.ndarray))


def _is_columns(data: Any) -> bool:
    parts = data.values() if isinstance(data, Mapping) else data if isinstance(data, tuple) else [data]
    return bool(parts) and all(is_array(part) for part in parts)


def _is_labels(data: Any) -> bool:
    return is_array(data) or (isinstance(data, list) and all(isinstance(label, int) for label in data))


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
            row = _format_first(labels, wrong)
            raise DataError(f"labels must be class indices (whole numbers), but {row}. {NUMBERS_TO_PREDICT}")
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
