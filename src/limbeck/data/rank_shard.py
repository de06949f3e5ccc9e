"""`shard_batch`: the rows of a global batch that one rank processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.errors import LimbeckError


def shard_batch(batch: Batch, rank: int, world: int) -> Batch:
    """Return the rows ``rank, rank + world, rank + 2 world, ...`` of every field of the batch.

    Every rank must call its model. A rank without rows gets row 0 with a mask of False, which adds nothing to the loss.

    Args:
        batch: The global batch, the same on every rank.
        rank: The rank, from 0.
        world: The number of ranks.

    Raises:
        LimbeckError: If `rank` is not in ``0..world-1``, or the batch is empty.

    Example:
        >>> shard_batch(Batch(torch.arange(5)), 1, 2).inputs.tolist()
        [1, 3]
    """
    if not 0 <= rank < world:
        raise LimbeckError(f"rank={rank} is not one of the {world} ranks, 0 to {world - 1}.")
    if batch.size == 0:
        raise LimbeckError("An empty batch cannot be split over ranks.")
    if world == 1:
        return batch
    if rank < batch.size:
        return batch.rows(torch.arange(rank, batch.size, world))
    first = batch.rows(torch.zeros(1, dtype=torch.int64))
    nothing = torch.zeros(1, dtype=torch.bool) if first.mask is None else torch.zeros_like(first.mask)
    return first._replace(mask=nothing.to(_device(first)))


def _device(batch: Batch) -> torch.device:
    tensors: list[Any] = [batch.id, batch.labels, batch.inputs]
    tensors += list(batch.inputs.values()) if isinstance(batch.inputs, Mapping) else []
    tensors += list(batch.inputs) if isinstance(batch.inputs, (tuple, list)) else []
    return next((part.device for part in tensors if isinstance(part, Tensor)), torch.device("cpu"))
