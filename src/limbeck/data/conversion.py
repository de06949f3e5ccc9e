"""What can be given as data (arrays, tensors, DataLoaders), converted to a loader or a data set."""

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
    """A source of batches from whatever holds the data.

    Args:
        data: A `Loader`, which is returned as it is; `Dataset`; ``(inputs, labels)`` arrays; an array or a mapping of
            arrays (``labels`` among them are the labels); a DataLoader or another iterable of batches with a length.
        batch_size: Examples in a batch, where the data are not in batches already.
        seed: For the order, where the data have none.
        shuffle: False keeps the order of the examples.
        drop_last: Leave out the last batch of an epoch if it holds fewer.
        augment: What makes views; for examples and arrays only.
        mix: What mixes two examples; for examples and arrays only.
        views: How many views there are of an example.
        adapt: item -> `Batch`; for loaders only.

    Raises:
        DataError: If the data are none of these.
        LimbeckError: If `augment` or `adapt` cannot apply to them.

    Example:
        >>> import torch
        >>> len(as_loader((torch.zeros(10, 3), torch.arange(10) % 2), batch_size=4))
        3
    """
    examples = as_dataset(data)
    if examples is not None:
        if adapt is not None:
            raise LimbeckError("adapt= turns the items of a loader into batches; these data are examples, not batches.")
        options: dict[str, Any] = {"shuffle": shuffle, "drop_last": drop_last, "augment": augment, "mix": mix}
        return ShuffledLoader(examples, batch_size=batch_size, seed=seed, views=views, **options)
    for name, value in (("augment", augment), ("mix", mix), ("views", views)):
        if value is not None and isinstance(data, Loader):
            raise LimbeckError(
                f"{name}= is for data that are not in batches yet, and a {type(data).__name__} makes its batches by "
                f"itself: give {name}= to it, where it is made."
            )
        if value is not None:
            raise LimbeckError(
                f"{name}= needs examples with ids; a {type(data).__name__} has none. Give lb.ArrayDataset(...)."
            )
    if isinstance(data, Loader):
        if adapt is not None:
            raise LimbeckError("adapt= turns the items of a loader into batches; a source has batches already.")
        return data
    if isinstance(data, DataLoader) or _is_batches(data):
        return TorchLoader(data, adapt=adapt)
    raise DataError(_unsupported_message(data))


def as_dataset(data: Any) -> Dataset | None:
    """Examples out of arrays, as `as_loader` takes them; None where the data are something else."""
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
    # [x, y] is nearly always arrays written with the wrong brackets, and would be read as two batches.
    return not (isinstance(data, list) and len(data) == 2 and all(_is_array(part) for part in data))


def _unsupported_message(data: Any) -> str:
    if isinstance(data, str):
        return f"{data!r} is a name, not data; try load_data({data!r}).train."
    if isinstance(data, TorchDataset):
        return f"A {type(data).__name__} has no batches; give DataLoader(data, batch_size=...) or lb.ArrayDataset(...)."
    if isinstance(data, list):
        return f"The data are {describe(data)}; write a tuple (inputs, labels) if these are arrays."
    if hasattr(data, "train") and hasattr(data, "test"):
        return f"A {type(data).__name__} has parts; give its .train or its .test."
    ways = "(inputs, labels) arrays, lb.ArrayDataset(...), a DataLoader, or a list of batches"
    return f"The data are {describe(data)}; give {ways}."
