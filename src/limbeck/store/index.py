"""In which row is the answer to one view of one example?"""

from __future__ import annotations

from typing import final

import numpy as np
from numpy.typing import NDArray

from limbeck.store.shard import Keys

_SPARE = 1 << 20
"""Entries of a table that may lie empty, whatever there is to find."""


@final
class Index:
    """Finds rows by example and view, many at a time.

    Where ids run from 0 on, as those of most sources do, it is a table with a line for each view; ids of any other kind
    are searched for among sorted ones. Of an answer that is there twice, the first counts.

    Args:
        keys: The rows' examples and views.
    """

    def __init__(self, keys: Keys) -> None:
        self._count = len(keys.id)
        lines = int(keys.view.max()) + 2 if self._count else 1
        length = int(keys.id.max()) + 1 if self._count else 0
        self._table: NDArray[np.int64] | None = None
        if self._count == 0 or (keys.id.min() >= 0 and lines * length <= 4 * self._count + _SPARE):
            self._table = np.full((lines, length), -1, np.int64)
            backwards = slice(None, None, -1)  # so that the first of two is written last
            self._table[keys.view[backwards] + 1, keys.id[backwards]] = np.arange(self._count)[backwards]
        else:
            order = np.lexsort((keys.view, keys.id))
            self._order, self._id, self._view = order, keys.id[order], keys.view[order]

    def rows(self, id: NDArray[np.int64], view: NDArray[np.int64] | int) -> NDArray[np.int64]:
        """The row of each; -1 where there is none.

        Args:
            id: Which examples.
            view: Which view of each, or one view for all; -1 for the examples themselves.
        """
        if self._table is None:
            return self._searched(id, np.broadcast_to(np.asarray(view), id.shape))
        lines, length = self._table.shape
        if len(id) == 0:
            return np.empty(0, np.int64)
        if isinstance(view, int):
            line = self._table[view + 1] if -1 <= view < lines - 1 else np.empty(0, np.int64)
            if id.min() >= 0 and id.max() < len(line):
                return line[id]
            inside = (id >= 0) & (id < len(line))
            return np.where(inside, line[np.where(inside, id, 0)], -1) if len(line) else np.full(len(id), -1)
        inside = (id >= 0) & (id < length) & (view >= -1) & (view < lines - 1)
        if not length:
            return np.full(len(id), -1)
        return np.where(inside, self._table[np.where(inside, view + 1, 0), np.where(inside, id, 0)], -1)

    def _searched(self, id: NDArray[np.int64], view: NDArray[np.int64]) -> NDArray[np.int64]:
        at = np.searchsorted(self._id, id)
        last = np.searchsorted(self._id, id, side="right")
        found = np.full(len(id), -1)
        # Few examples have many views; a step goes to the next view of all examples at once.
        open_ = at < last
        while open_.any():
            right = open_ & (self._view[np.minimum(at, self._count - 1)] == view)
            found[right] = self._order[at[right]]
            at = at + 1
            open_ = open_ & ~right & (at < last)
        return found
