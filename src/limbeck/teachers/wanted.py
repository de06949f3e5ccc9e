"""Which answers does a batch need?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from limbeck.signal import Batch
from limbeck.store import Keys

_ITSELF = -1  # the view's number where an example is not augmented


def view_of(batch: Batch) -> NDArray[np.int64] | int:
    """Which views a batch holds."""
    return _ITSELF if batch.view is None else batch.view.cpu().numpy()


def keys_of(batch: Batch) -> Keys:
    """Which answers a batch needs."""
    lengths, view = lengths_of(batch), view_of(batch)
    id = batch.id.cpu().numpy() if batch.id is not None else np.empty(0, np.int64)
    views = np.full(len(id), view) if isinstance(view, int) else view
    return Keys(id, views, None if lengths is None else lengths.numpy())


def counted_of(batch: Batch) -> Tensor | None:
    """Which positions of each example are kept, ``bool [batch, positions]``: those that count, and one where none does.

    So it does not matter on which side a text is padded, or beside which longer one it stood.
    """
    if batch.mask is None or batch.mask.ndim < 2:
        return None
    counted = batch.mask.bool().flatten(2).any(-1) if batch.mask.ndim > 2 else batch.mask.bool()
    counted = counted.cpu()
    none = ~counted.any(1)
    if bool(none.any()):
        counted = counted.clone()
        counted[none, 0] = True
    return counted


def lengths_of(batch: Batch) -> Tensor | None:
    """How many positions of each example are kept."""
    counted = counted_of(batch)
    return None if counted is None else counted.sum(1)
