"""Encodes the outputs at one address as rows of bytes, and decodes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.cache.encodings import Encoding, encoding
from limbeck.errors import LimbeckError
from limbeck.top_k_logits import PartialLogits

_LARGEST = 2**31
"""Upper bound for the size of a dimension, to refuse damaged descriptions."""


@dataclass(frozen=True)
class Column:
    """The layout of the outputs at one address: the encoding of a row, and the rows of an output.

    Attributes:
        encoding: The encoding of one row of classes (or of features).
        positions: The shape between the batch and the classes, ``()`` for a classifier; None where the first of these
            dimensions differs between examples, like the length of texts.
        inner: With `positions` None, the shape between that dimension and the classes.
        axis: The dimension of an output that holds the classes.
        shape: The shape of one example's output where all of it is one row (features); None where the classes are last.
    """

    encoding: Encoding
    positions: tuple[int, ...] | None = ()
    inner: tuple[int, ...] = ()
    axis: int = -1
    shape: tuple[int, ...] | None = None

    @property
    def rows(self) -> int:
        """Rows of classes in one record: of an example, or of a position where examples differ in their number."""
        return math.prod(self.inner if self.positions is None else self.positions)

    @property
    def width(self) -> int:
        """Bytes of one record."""
        return self.rows * self.encoding.width

    def encode(
        self, outputs: Tensor | PartialLogits, *, id: Tensor, view: Tensor, counted: Tensor | None = None
    ) -> NDArray[np.uint8]:
        """The records of a batch's outputs, ``[n, width]``.

        Args:
            outputs: The teacher's outputs.
            id: The example ids.
            view: The view numbers; -1 for examples without augmentation.
            counted: Which positions of each example are stored, ``bool [n, positions]``; for a column whose `positions`
                are None.

        Raises:
            LimbeckError: If the outputs have another shape than the first ones.
        """
        moved: Tensor | PartialLogits
        if isinstance(outputs, Tensor):
            plain = outputs.detach().cpu()
            moved = plain.movedim(self.axis, -1) if self.shape is None else plain.flatten(1)
        else:
            moved = outputs.to("cpu")
        shape = tuple(moved.shape[1:-1])
        if self.positions is None:
            if counted is None or shape[1:] != self.inner or shape[:1] != counted.shape[1:]:
                raise self._wrong_positions(shape)
            moved, counts = moved[counted], counted.sum(1)
        elif shape != self.positions:
            raise self._wrong_positions(shape)
        else:
            counts = torch.ones_like(id)
        rows = moved.reshape(-1, moved.shape[-1]) if isinstance(moved, Tensor) else moved.reshape(-1)
        each = torch.repeat_interleave(counts * self.rows)
        first = (counts * self.rows).cumsum(0) - counts * self.rows
        position = torch.arange(len(rows)) - first[each]
        records = self.encoding.encode(rows, id=id[each], view=view[each], position=position)
        return records.reshape(-1, self.width)

    def decode(self, records: NDArray[np.uint8], leading: tuple[int, ...]) -> Any:
        """The outputs in these records: a tensor, or partial logits.

        Args:
            records: ``[n, width]``.
            leading: The dimensions that n consists of: ``(batch,)``, or ``(batch, positions)`` where the number of
                positions differs.
        """
        rows = self.encoding.decode(records.reshape(-1, self.encoding.width))
        inner = self.inner if self.positions is None else self.positions
        if self.shape is not None and isinstance(rows, Tensor):
            return rows.reshape(*leading, *self.shape)
        if isinstance(rows, Tensor):
            return rows.reshape(*leading, *inner, rows.shape[-1]).movedim(-1, self.axis)
        return rows.reshape(*leading, *inner)

    def decode_examples(self, records: NDArray[np.uint8], counted: NDArray[np.bool_] | None) -> Any:
        """The outputs in these records, example by example.

        Args:
            records: The result of `encode`.
            counted: Which positions have records, where examples differ in their number; other positions get the
                outputs of some counted position.
        """
        if self.positions is not None:
            return self.decode(records, (len(records),))
        if counted is None:
            raise self._wrong_positions(())
        lengths = counted.sum(1)
        return self.decode(records[record_indices(lengths.cumsum() - lengths, counted).reshape(-1)], counted.shape)

    @property
    def spec(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        positions = None if self.positions is None else list(self.positions)
        return {
            "encoding": self.encoding.spec,
            "classes": self.encoding.classes,
            "positions": positions,
            "inner": list(self.inner),
            "axis": self.axis,
            "shape": None if self.shape is None else list(self.shape),
        }

    @staticmethod
    def from_spec(spec: Mapping[str, Any]) -> Column:
        """The column with this `spec`.

        Raises:
            LimbeckError: If it is no valid `spec`.
        """
        try:
            classes, axis, (positions, shape, inner) = spec["classes"], spec["axis"], map(_sizes, _shapes(spec))
            if inner is None or not (_is_whole(classes) and 1 <= classes <= _LARGEST and _is_whole(axis)):
                raise ValueError("a size is invalid")
            own = encoding(spec["encoding"], classes=classes)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise LimbeckError(f"{str(dict(spec))[:200]} is no valid layout of outputs: {error}.") from error
        return Column(own, positions, inner, axis, shape)

    def _wrong_positions(self, shape: tuple[int, ...]) -> LimbeckError:
        expected = "one number" if self.positions is None else str(list(self.positions))
        return LimbeckError(
            f"These outputs have {list(shape)} positions, those in the cache {expected}. If their number differs "
            "between batches, mark the valid ones with Batch.mask, and use a new cache."
        )


def _shapes(spec: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return spec["positions"], spec["shape"], spec["inner"]


def _sizes(value: Any) -> tuple[int, ...] | None:
    """A shape; None stays None."""
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not all(_is_whole(size) and 0 <= size <= _LARGEST for size in value):
        raise ValueError(f"{str(value)[:60]} is no shape")
    return tuple(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def record_indices(first: NDArray[np.int64], counted: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The indices of the records of some examples' positions; a skipped position gets that of the last counted one.

    Args:
        first: The index of each example's first record.
        counted: Which positions have a record, ``[examples, positions]``.
    """
    return first[:, None] + np.maximum(counted.cumsum(1) - 1, 0)
