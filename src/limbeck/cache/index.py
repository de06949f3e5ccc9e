"""`Index`: finds the row of the outputs for a view of an example."""

from __future__ import annotations

from typing import final

import numpy as np
from numpy.typing import NDArray

from limbeck.cache.shard import Keys

_SPARE = 1 << 20
"""Entries of a table that may be empty, whatever the number of keys."""


@final
class Index:
    """Finds rows by example and view, many at a time.

    It is a table with a line for each view and a column for each id. Where ids are consecutive, the column follows from
    the id; other ids are looked up in a sorted array. Where most of a table would be empty, pairs of example and view
    are looked up in a sorted array instead. If a key occurs twice, the first row is used.

    Args:
        keys: The keys of the rows.
    """

    def __init__(self, keys: Keys) -> None:
        count = len(keys.id)
        self._ids: NDArray[np.int64] | None = None
        self._first = int(keys.id.min()) if count else 0
        lines = int(keys.view.max()) + 2 if count else 1
        self._length = int(keys.id.max()) - self._first + 1 if count else 0
        if lines * self._length > 4 * count + _SPARE:
            self._ids = np.unique(keys.id)
            self._length = len(self._ids)
        self._table: NDArray[np.int64] | None = None
        column, _ = self._columns(keys.id)
        backwards = slice(None, None, -1)  # so that the first of two equal keys is written last
        if lines * self._length <= 4 * count + _SPARE:
            self._table = np.full((lines, self._length), -1, np.int64)
            self._table[keys.view[backwards] + 1, column[backwards]] = np.arange(count)[backwards]
            return
        self._views, view = np.unique(keys.view, return_inverse=True)
        self._pairs, self._rows = np.unique(column * len(self._views) + view, return_index=True)

    def rows(self, id: NDArray[np.int64], view: NDArray[np.int64] | int) -> NDArray[np.int64]:
        """The row of each; -1 where there is none.

        Args:
            id: The example ids.
            view: The view of each example, or one view for all; -1 for examples without augmentation.
        """
        if len(id) == 0 or self._length == 0:
            return np.full(len(id), -1)
        column, exists = self._columns(id)
        if self._table is None:
            return self._search_pairs(column, exists, view)
        lines = len(self._table)
        if not isinstance(view, int):
            exists = exists & (view >= -1) & (view < lines - 1)
            return np.where(exists, self._table[np.where(exists, view + 1, 0), np.where(exists, column, 0)], -1)
        if not -1 <= view < lines - 1:
            return np.full(len(id), -1)
        line = self._table[view + 1]
        return line[column] if exists.all() else np.where(exists, line[np.where(exists, column, 0)], -1)

    def _columns(self, id: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The column of each id, and whether it exists."""
        if self._ids is None:
            column = id - self._first if self._first else id
            return column, (column >= 0) & (column < self._length)
        column = np.minimum(np.searchsorted(self._ids, id), self._length - 1)
        return column, self._ids[column] == id

    def _search_pairs(
        self, column: NDArray[np.int64], exists: NDArray[np.bool_], view: NDArray[np.int64] | int
    ) -> NDArray[np.int64]:
        number = np.minimum(np.searchsorted(self._views, view), len(self._views) - 1)
        pair = column * len(self._views) + number
        at = np.minimum(np.searchsorted(self._pairs, pair), len(self._pairs) - 1)
        there = exists & (self._views[number] == view) & (self._pairs[at] == pair)
        return np.where(there, self._rows[at], -1)
