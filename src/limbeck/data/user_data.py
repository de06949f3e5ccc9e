"""Loads data with a user's function, `my.py:load`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset

from limbeck.data.arrays import ArrayDataset
from limbeck.data.conversion import as_dataset
from limbeck.data.dataset import Dataset
from limbeck.data.torch_loader import describe
from limbeck.errors import DataError, LimbeckError, unknown_name_error
from limbeck.models import UserFile
from limbeck.models.arguments import check_arguments

_KEYS = ("train", "test", "development", "class_names", "preprocess")
_WAYS = (
    "It must return a pair (train, test), or a mapping with train, test, development, class_names and preprocess. Each "
    "part is (inputs, labels), a torch Dataset of such pairs, or lb.ArrayDataset. A limbeck.data.DataSplits works too."
)


class UserDataParts(NamedTuple):
    """The parts that a user's function returned.

    Attributes:
        train: The training part.
        test: The test part; None takes it from `train`.
        development: The development part; None takes it from `train`.
        class_names: The class names.
        preprocess: Function batch -> model inputs; None uses the default.
    """

    train: Dataset
    test: Dataset | None
    development: Dataset | None
    class_names: tuple[str, ...] | None
    preprocess: Callable[..., Any] | None


def call_user_loader(own: UserFile, options: Mapping[str, Any]) -> Any:
    """Call the function; returns its `DataSplits` unchanged, or its parts as `UserDataParts`.

    Args:
        own: The file and its function.
        options: The other keys under ``data:``, which are passed as arguments.

    Raises:
        LimbeckError: If an option is not an argument of the function, it fails, or its result is not supported.
    """
    who = f"{own.file}:{own.function}"
    function = own.load()
    check_arguments(who, function, options)
    try:
        result = function(**options)
    except LimbeckError:
        raise
    except Exception as error:  # any exception of the user's function
        raise LimbeckError(f"The data function {who} failed: {type(error).__name__}: {error}") from error
    if isinstance(result, tuple) and len(result) == 2:
        result = {"train": result[0], "test": result[1]}
    if not isinstance(result, Mapping):
        # Not isinstance(result, DataSplits): its module imports this one.
        if isinstance(getattr(result, "train", None), Dataset) and hasattr(result, "test"):
            return result
        raise DataError(f"{who} returned a {type(result).__name__}. {_WAYS}")
    return _parts(who, result)


def _parts(who: str, parts: Mapping[str, Any]) -> UserDataParts:
    for key in parts:
        if key not in _KEYS:
            raise unknown_name_error(f"part of {who}", str(key), _KEYS)
    if parts.get("train") is None:
        raise DataError(f"{who} returned no training part. {_WAYS}")
    names = parts.get("class_names")
    names = None if names is None else tuple(str(name) for name in names)
    train, test, development = (_examples(who, key, parts.get(key)) for key in ("train", "test", "development"))
    own_names = None if train is None else train.class_names
    return UserDataParts(train, test, development, names or own_names, parts.get("preprocess"))  # type: ignore[arg-type]


def _examples(who: str, part: str, data: Any) -> Dataset | None:
    if data is None:
        return None
    if isinstance(data, TorchDataset) and not isinstance(data, IterableDataset):
        return _stack_items(who, part, data)
    examples = as_dataset(data)
    if examples is None:
        raise DataError(
            f"The {part} part of {who} is {describe(data)}; inputs and labels must be tensors or numpy arrays, and "
            f"labels class indices from 0. {_WAYS}"
        )
    return examples


def _stack_items(who: str, part: str, dataset: Any) -> ArrayDataset:
    """Read a map-style dataset once, so that all runs see the same examples with the same ids."""
    rows = [dataset[i] for i in range(len(dataset))]
    if not rows or not all(isinstance(row, (tuple, list)) and len(row) == 2 for row in rows):
        raise DataError(f"The items of the {part} part of {who} are not pairs (input, label). {_WAYS}")
    try:
        inputs = torch.stack([torch.as_tensor(row[0]) for row in rows])
        labels = torch.stack([torch.as_tensor(row[1]) for row in rows])  # ArrayDataset checks the values
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"The items of the {part} part of {who} are not tensors of one shape with a class index: {error}"
        ) from error
    return ArrayDataset(inputs, labels)
