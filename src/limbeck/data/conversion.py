"""Converts arrays, tensors, datasets and DataLoaders to a limbeck loader or dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from limbeck.batch import Batch
from limbeck.data.arrays import ArrayDataset
from limbeck.data.batch_mix import BatchMix
from limbeck.data.dataset import Dataset
from limbeck.data.loader import Loader, ShuffledLoader
from limbeck.data.torch_loader import TorchLoader, describe
from limbeck.data.transform import Transform
from limbeck.errors import DataError, LimbeckError


def as_loader(
    data: Any,
    *,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = True,
    drop_last: bool = False,
    augment: Transform | None = None,
    mix: BatchMix | None = None,
    views: int | None = None,
    adapt: Callable[[Any], Batch] | None = None,
) -> Loader:
    """Convert data to a loader.

    Args:
        data: A `Loader`, which is returned unchanged; a `Dataset`; ``(inputs, labels)`` arrays; an array or a mapping
            of arrays (the key ``labels`` holds the labels); a DataLoader or another iterable of batches with a length.
        batch_size: Examples per batch, for data that are not in batches already.
        seed: Seed of the order, for data that are not in batches already.
        shuffle: False keeps the order of the examples.
        drop_last: Drop the last batch of an epoch if it is smaller.
        augment: A transform; for datasets and arrays only.
        mix: A mix of two examples; for datasets and arrays only.
        views: Number of views of each example.
        adapt: Function item -> `Batch`; for DataLoaders and iterables only.

    Raises:
        DataError: If the data have an unsupported type.
        LimbeckError: If `augment`, `mix`, `views` or `adapt` does not apply to the data.

    Example:
        >>> import torch
        >>> len(as_loader((torch.zeros(10, 3), torch.arange(10) % 2), batch_size=4))
        3
    """
    examples = as_dataset(data)
    if examples is not None:
        if adapt is not None:
            raise LimbeckError(
                "adapt= converts the items of a DataLoader to batches; these data are examples, not batches."
            )
        options: dict[str, Any] = {"shuffle": shuffle, "drop_last": drop_last, "augment": augment, "mix": mix}
        return ShuffledLoader(examples, batch_size=batch_size, seed=seed, views=views, **options)
    for name, value in (("augment", augment), ("mix", mix), ("views", views)):
        if value is not None and isinstance(data, Loader):
            raise LimbeckError(
                f"{name}= applies to data that are not in batches yet, but a {type(data).__name__} makes its own. "
                f"Pass {name}= to the {type(data).__name__} instead."
            )
        if value is not None:
            raise LimbeckError(
                f"{name}= requires examples with ids, and a {type(data).__name__} has none. Use lb.ArrayDataset(...)."
            )
    if isinstance(data, Loader):
        if adapt is not None:
            raise LimbeckError(
                "adapt= converts the items of a DataLoader to batches; a limbeck loader has batches already."
            )
        return data
    if isinstance(data, DataLoader) or _is_batches(data):
        return TorchLoader(data, adapt=adapt)
    raise DataError(_unsupported_message(data))


def as_dataset(data: Any) -> Dataset | None:
    """Convert arrays to a dataset, as in `as_loader`; None for other data."""
    if isinstance(data, Dataset):
        return data
    if _is_array(data):
        return ArrayDataset(data)
    if isinstance(data, tuple) and len(data) == 2 and _is_columns(data[0]) and _is_labels(data[1]):
        return ArrayDataset(*data)
    if _is_columns(data) and isinstance(data, Mapping):
        columns = dict(data)
        return (
            ArrayDataset(columns, labels=columns.pop("labels", None))
            if len(columns) > 1 or "labels" not in columns
            else None
        )
    return None


def _is_array(data: Any) -> bool:
    return isinstance(data, (Tensor, np.ndarray))


def _is_columns(data: Any) -> bool:
    parts = data.values() if isinstance(data, Mapping) else data if isinstance(data, tuple) else [data]
    return bool(parts) and all(_is_array(part) for part in parts)


def _is_labels(data: Any) -> bool:
    return _is_array(data) or (isinstance(data, list) and all(isinstance(label, int) for label in data))


def _is_batches(data: Any) -> bool:
    if isinstance(data, (str, bytes, Mapping, TorchDataset, tuple)) or not isinstance(data, Iterable):
        return False
    # [x, y] is almost always a pair (inputs, labels) in the wrong brackets; it would be read as two batches.
    return not (isinstance(data, list) and len(data) == 2 and all(_is_array(part) for part in data))


def _unsupported_message(data: Any) -> str:
    if isinstance(data, str):
        return f"{data!r} is a name, not data; use load_data({data!r}).train."
    if isinstance(data, TorchDataset):
        return f"A {type(data).__name__} has no batches; use DataLoader(data, batch_size=...) or lb.ArrayDataset(...)."
    if isinstance(data, list):
        return f"The data are {describe(data)}; use a tuple (inputs, labels) if these are arrays."
    if hasattr(data, "train") and hasattr(data, "test"):
        return f"A {type(data).__name__} has several parts; pass its .train or .test."
    ways = "(inputs, labels) arrays, lb.ArrayDataset(...), a DataLoader, or a list of batches"
    return f"The data are {describe(data)}; pass {ways}."
