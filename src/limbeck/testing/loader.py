"""`check_loader`: checks the laws of loaders."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data import Loader
from limbeck.testing.law import require

_OF = "loaders"


def check_loader(loader: Loader) -> None:
    """Check a loader against all laws of loaders, over two epochs.

    The laws:

    * An epoch has the announced number of batches and examples.
    * The columns of a batch have the same length; ids, views and labels are whole numbers.
    * Ids are unique within an epoch.
    * `peek` does not consume the next batch.
    * The fingerprint does not change.
    * A loader resumed in the middle of an epoch yields the same remaining batches, or raises an error.

    Args:
        loader: The loader.

    Raises:
        AssertionError: If a law is broken; the message names it.

    Example:
        >>> from limbeck.data import ArrayDataset, ShuffledLoader
        >>> check_loader(ShuffledLoader(ArrayDataset(torch.randn(10, 2)), batch_size=4))
    """
    mark = loader.fingerprint
    require(isinstance(mark, str) and bool(mark), "it has no fingerprint", of=_OF)
    for number in range(2):
        peeked = loader.peek() if loader.resumable else None
        epoch = list(loader)
        if peeked is not None:
            require(_same(peeked, epoch[0]), "peek() is not the next batch, or consumes it", of=_OF)
        _check_epoch(loader, epoch, number)
    require(loader.fingerprint == mark, "its fingerprint changes during an epoch", of=_OF)
    if loader.resumable:
        _check_resumed(loader)


def _check_epoch(loader: Loader, epoch: list[Batch], number: int) -> None:
    require(len(epoch) == len(loader), f"epoch {number} has {len(epoch)} batches, not {len(loader)}", of=_OF)
    for batch in epoch:
        for name in ("id", "view", "labels", "mask"):
            column = getattr(batch, name)
            if column is not None:
                require(len(column) == batch.size, f"{name} has {len(column)} rows, not {batch.size}", of=_OF)
                dtype = torch.bool if name == "mask" else torch.int64
                require(column.dtype == dtype, f"{name} is {column.dtype}, not {dtype}", of=_OF)
    announced, total = loader.examples_per_epoch, sum(batch.size for batch in epoch)
    require(announced in (None, total), f"epoch {number} has {total} examples, not {announced}", of=_OF)
    if loader.has_ids:
        require(all(batch.id is not None for batch in epoch), "it declares ids, and a batch has none", of=_OF)
        ids = torch.cat([batch.id for batch in epoch if batch.id is not None])
        require(len(ids.unique()) == len(ids), f"an id occurs twice in epoch {number}", of=_OF)


def _check_resumed(loader: Loader) -> None:
    whole = iter(loader)
    require(next(whole, None) is not None, "it has no batches", of=_OF)
    position = dict(loader.state_dict())
    rest = list(whole)
    later = list(loader)
    loader.load_state_dict(position)
    again = list(loader)
    require(
        len(rest) == len(again) and all(map(_same, rest, again)),
        "resumed from a position in an epoch, the remaining batches differ",
        of=_OF,
    )
    require(all(map(_same, later, list(loader))), "after a position is restored, the next epoch differs", of=_OF)


def _same(mine: Any, theirs: Any) -> bool:
    if isinstance(mine, Tensor):
        return isinstance(theirs, Tensor) and torch.equal(mine, theirs)
    if isinstance(mine, dict):
        return mine.keys() == theirs.keys() and all(_same(mine[key], theirs[key]) for key in mine)
    if isinstance(mine, (tuple, list)):
        return len(mine) == len(theirs) and all(map(_same, mine, theirs))
    return bool(mine == theirs)
