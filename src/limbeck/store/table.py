"""Which answers are small enough to lie decoded in memory, line by line of their ids?"""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from torch import Tensor

from limbeck.store.store import Store

_BYTES = 64 * 2**20
_ITSELF = -1  # the view's number where an example is not augmented


@final
class Table:
    """All answers to examples themselves, not to views of them, at one address: decoded, found by id.

    A look takes one operation, where finding, reading and decoding take twenty; their results are the same to the bit.
    """

    def __init__(self, lines: Tensor, held: Tensor | None) -> None:
        self._lines, self._held = lines, held

    @staticmethod
    def of(store: Store, address: str) -> Table | None:
        """The table of an address; None where it would be big, or its answers are no tensors of one shape.

        Raises:
            DataError: If a shard is damaged.
        """
        keys, column = store.keys, store.columns[address]
        count = len(keys.id)
        length = int(keys.id.max()) + 1 if count else 0
        size = 4 * length * column.rows * column.encoding.classes
        if not count or column.positions is None or size > _BYTES or keys.id.min() < 0:
            return None
        row = store.rows(np.arange(length), _ITSELF)
        held = row >= 0
        if not held.any() or not isinstance(answers := store.read(row[held], address), Tensor):
            return None
        lines = answers
        if not held.all():
            lines = answers.new_zeros(length, *answers.shape[1:])
            lines[torch.from_numpy(held)] = answers
        return Table(lines, None if held.all() else torch.from_numpy(held))

    def look(self, id: Tensor) -> Tensor | None:
        """The answers to these examples; None where one of them is not held."""
        at = id.cpu()  # an accelerator does not survive an id out of range
        try:
            if self._held is not None and not bool(self._held.index_select(0, at).all()):
                return None
            return self._lines.index_select(0, at)
        except IndexError:
            return None
