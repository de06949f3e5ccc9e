"""Outputs at one address as rows of bytes, and back."""

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

_LARGEST = 2**31
"""A side of an answer; none is so long."""


@dataclass(frozen=True)
class Column:
    """The answers at one address: how a row of them is encoded, and how rows make an answer.

    Attributes:
        encoding: How one row of classes (or of features) becomes bytes.
        positions: The shape between the batch and the classes, ``()`` for a classifier; None where the first of these
            differs between examples, as the length of texts does.
        inner: With `positions` None, the shape between that first one and the classes.
        axis: Which dimension of an answer holds the classes.
        shape: Of one example's answer, where all of it is one row: features of any shape; None where classes are last.
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

    def encode(self, answer: Tensor, *, id: Tensor, view: Tensor, counted: Tensor | None = None) -> NDArray[np.uint8]:
        """The records of a batch's answers, ``[n, width]``.

        Args:
            answer: What the teacher showed.
            id: Which examples.
            view: Which views; -1 for the examples themselves.
            counted: Which positions of each example are kept, ``bool [n, positions]``; for a column whose `positions`
                are None.

        Raises:
            LimbeckError: If the answers have another shape than those before.
        """
        moved = answer.detach().cpu().movedim(self.axis, -1) if self.shape is None else answer.detach().cpu().flatten(1)
        shape = tuple(moved.shape[1:-1])
        if self.positions is None:
            if counted is None or shape[1:] != self.inner or shape[:1] != counted.shape[1:]:
                raise self._other(shape)
            moved, counts = moved[counted], counted.sum(1)
        elif shape != self.positions:
            raise self._other(shape)
        else:
            counts = torch.ones_like(id)
        rows = moved.reshape(-1, moved.shape[-1])
        each = torch.repeat_interleave(counts * self.rows)
        first = (counts * self.rows).cumsum(0) - counts * self.rows
        position = torch.arange(len(rows)) - first[each]
        found = self.encoding.encode(rows, id=id[each], view=view[each], position=position)
        return found.reshape(-1, self.width)

    def decode(self, records: NDArray[np.uint8], leading: tuple[int, ...]) -> Any:
        """The answers that records hold: a tensor, or a partial answer.

        Args:
            records: ``[n, width]``.
            leading: What n is made of: ``(batch,)``, or ``(batch, positions)`` where their number differs.
        """
        found = self.encoding.decode(records.reshape(-1, self.encoding.width))
        inner = self.inner if self.positions is None else self.positions
        if self.shape is not None and isinstance(found, Tensor):
            return found.reshape(*leading, *self.shape)
        if isinstance(found, Tensor):
            return found.reshape(*leading, *inner, found.shape[-1]).movedim(-1, self.axis)
        return found.reshape(*leading, *inner)

    def decode_examples(self, records: NDArray[np.uint8], counted: NDArray[np.bool_] | None) -> Any:
        """The answers that these records hold, example after example.

        Args:
            records: As `encode` made them.
            counted: At which positions, where examples differ in their number; elsewhere is some other position's.
        """
        if self.positions is not None:
            return self.decode(records, (len(records),))
        if counted is None:
            raise self._other(())
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
        """The column that `spec` was made by.

        Raises:
            LimbeckError: If it was made by none.
        """
        try:
            classes, axis, (positions, shape, inner) = spec["classes"], spec["axis"], map(_sizes, _shapes(spec))
            if inner is None or not (_is_whole(classes) and 1 <= classes <= _LARGEST and _is_whole(axis)):
                raise ValueError("a size is none")
            own = encoding(spec["encoding"], classes=classes)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise LimbeckError(f"{str(dict(spec))[:200]} does not say how answers are kept: {error}.") from error
        return Column(own, positions, inner, axis, shape)

    def _other(self, shape: tuple[int, ...]) -> LimbeckError:
        known = "one number" if self.positions is None else str(list(self.positions))
        return LimbeckError(
            f"An answer has {list(shape)} positions, and the store was begun with {known}. Where their number differs "
            "between batches, say which of them count with Batch.mask, and begin another store."
        )


def _shapes(spec: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return spec["positions"], spec["shape"], spec["inner"]


def _sizes(value: Any) -> tuple[int, ...] | None:
    """A shape; None stays None."""
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not all(_is_whole(one) and 0 <= one <= _LARGEST for one in value):
        raise ValueError(f"{str(value)[:60]} is no shape")
    return tuple(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def record_indices(first: NDArray[np.int64], counted: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Where the records of some examples' positions are; what does not count gets that of the last that did.

    Args:
        first: Each example's first record.
        counted: At which positions it has one, ``[examples, positions]``.
    """
    return first[:, None] + np.maximum(counted.cumsum(1) - 1, 0)
