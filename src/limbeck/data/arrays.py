"""`ArrayDataset`: a dataset of arrays in memory or in a memory map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, final

from jaxtyping import Int
from torch import Tensor

from limbeck.batch import Batch, count_rows, input_rows, sequence_like
from limbeck.data.column_checks import check_finite, column_from, hash_columns, labels_from, tensor_from
from limbeck.data.dataset import Dataset
from limbeck.errors import DataError


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
        self._names = None if class_names is None else tuple(str(name) for name in class_names)
        self._inputs = _inputs(inputs)
        self._labels = None if labels is None else labels_from(labels, classes=self._names)
        self._mask = None if mask is None else tensor_from(mask, "mask").bool()
        self._extra = {name: column_from(column, f"extra[{name!r}]") for name, column in (extra or {}).items()}
        self._size = _common_length(self._columns())
        for name, column in _named(self._inputs):
            check_finite(column, name)

    def __len__(self) -> int:
        return self._size

    def take(self, index: Int[Tensor, " n"]) -> Batch:
        """Return the rows `index` of every column."""
        labels, mask = (None if column is None else count_rows(column, index) for column in (self._labels, self._mask))
        return Batch(input_rows(self._inputs, index), index, None, labels, mask, count_rows(self._extra, index))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of every column's type, shape and bytes, and of the class names."""
        return hash_columns(("arrays", type(self._inputs).__name__), *self._columns(), ("class_names", self._names))

    @property
    def inputs(self) -> Any:
        """The inputs as tensors: one, or a tuple or mapping of them."""
        return self._inputs

    @property
    def labels(self) -> Tensor | None:
        """The labels in int64; None if there are none."""
        return self._labels

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The class names; None if there are none."""
        return self._names

    def _columns(self) -> list[tuple[str, Any]]:
        own = [("labels", self._labels), ("mask", self._mask)]
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
