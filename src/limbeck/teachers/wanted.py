"""Which answers does a batch need?"""

from __future__ import annotations

import numpy as np
import torch
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


def lengths_of(batch: Batch) -> Tensor | None:
    """How many positions of each example are kept: up to the last that counts, and one where none does."""
    if batch.mask is None or batch.mask.ndim < 2:
        return None
    counted = batch.mask.bool().flatten(2).any(-1) if batch.mask.ndim > 2 else batch.mask.bool()
    place = torch.arange(1, counted.shape[1] + 1, device=counted.device)
    return (counted * place).amax(1).clamp_min(1).cpu()


def longest_of(batch: Batch) -> int | None:
    """How many positions an answer to a batch has, where their number differs."""
    return batch.mask.shape[1] if batch.mask is not None and batch.mask.ndim > 1 else None
