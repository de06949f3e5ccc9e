"""`check_loader`: laws of loaders."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from limbeck.batch import Batch
from limbeck.data import Loader
from limbeck.testing.law import require

_OF = "sources"


def check_loader(loader: Loader) -> None:
    """Check a source against every law that applies to it; it is read for two epochs.

    The laws: an epoch has as many batches, and examples, as announced; the columns of a batch are of one length, and
    ids, views and labels are whole numbers; ids are unique within an epoch; looking at the next batch does not use it
    up; the fingerprint stays; from a position in the middle of an epoch the rest is the same again, and a source that
    cannot do that says so.

    Args:
        loader: The source.

    Raises:
        AssertionError: With a sentence that says which law is broken.

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
            require(_same(peeked, epoch[0]), "peek() is not the batch that comes next, or uses it up", of=_OF)
        _check_epoch(loader, epoch, number)
    require(loader.fingerprint == mark, "its fingerprint changes while it is read", of=_OF)
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
        require(all(batch.id is not None for batch in epoch), "it says that it has ids, and a batch has none", of=_OF)
        ids = torch.cat([batch.id for batch in epoch if batch.id is not None])
        require(len(ids.unique()) == len(ids), f"an id comes twice in epoch {number}", of=_OF)


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
        "from a position in an epoch, the rest is not the same again",
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
