"""Which batch does one item of a loader stand for?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.errors import DataError, one_for_each_class
from limbeck.signal import Batch, sequence_like


def batch_from(item: Any) -> Batch:
    """One item of a loader as a `Batch`.

    Raises:
        DataError: If the item could mean several things; the sentence shows it.
    """
    if isinstance(item, Batch):
        return item
    if isinstance(item, (Tensor, np.ndarray)):
        return Batch(torch.as_tensor(item))
    if isinstance(item, Mapping):
        return _from_mapping(item)
    if isinstance(item, (tuple, list)) and len(item) in (1, 2) and all(_is_inputs(part) for part in item[:1]):
        inputs = _tensors(item[0])
        if len(item) == 1:
            return Batch(inputs)
        if (labels := _integers(item[1])) is not None:
            return Batch(inputs, labels=labels)
        _check_soft(inputs, item[1])
    raise DataError(
        f"A batch is {describe(item)}; limbeck reads a tensor, (inputs, integer labels), a mapping or a Batch. "
        "Give adapt=, a function of one such item that returns limbeck.Batch(inputs=..., labels=...)."
    )


def _from_mapping(item: Mapping[str, Any]) -> Batch:
    columns = dict(item)
    found = next((columns.pop(name) for name in ("labels", "label") if columns.get(name) is not None), None)
    labels = None if found is None else _integers(found)
    if found is not None and labels is None:
        _check_soft(None, found)
        raise DataError(f"labels are class indices, whole numbers; this batch has {describe(found)}. Give adapt=.")
    id = _integers(columns.pop("id")) if _integers(columns.get("id")) is not None else None
    inputs = {name: column for name, column in columns.items() if isinstance(column, Tensor)}
    if not inputs:
        raise DataError(
            f"A batch is {describe(item)}, in which no column is a tensor to call the model with. Give adapt=."
        )
    extra = {name: column for name, column in columns.items() if name not in inputs}
    return Batch(inputs, id, None, labels, None, extra)


def _check_soft(inputs: Any, labels: Any) -> None:
    """Refuse labels that are rows of numbers from 0 to 1, unless they are inputs once more, as for an autoencoder."""
    if (
        not isinstance(labels, (Tensor, np.ndarray))
        or labels.ndim != 2
        or getattr(inputs, "shape", None) == labels.shape
    ):
        return
    found = torch.as_tensor(labels)
    if found.is_floating_point() and bool(((found >= 0) & (found <= 1)).all()):
        raise one_for_each_class(found.shape)


def _is_inputs(part: Any) -> bool:
    parts = part.values() if isinstance(part, Mapping) else part if isinstance(part, (tuple, list)) else [part]
    return bool(parts) and all(isinstance(one, (Tensor, np.ndarray)) for one in parts)


def _tensors(part: Any) -> Any:
    if isinstance(part, Mapping):
        return {name: torch.as_tensor(column) for name, column in part.items()}
    if isinstance(part, (tuple, list)):
        columns = tuple(torch.as_tensor(column) for column in part)
        return sequence_like(part, columns) if isinstance(part, tuple) else columns
    return torch.as_tensor(part)


def _integers(found: Any) -> Tensor | None:
    if not isinstance(found, (Tensor, np.ndarray)) or len(found.shape) == 0:
        return None
    tensor = torch.as_tensor(found)
    return None if tensor.is_floating_point() or tensor.is_complex() else tensor.long()


def describe(item: Any) -> str:
    """An item in a few words: its type, and the shapes and types of what it holds."""
    if isinstance(item, Tensor):
        return f"Tensor{list(item.shape)} {str(item.dtype).removeprefix('torch.')}"
    if isinstance(item, np.ndarray):
        return f"ndarray{list(item.shape)} {item.dtype}"
    if isinstance(item, Mapping):
        return "a mapping {" + ", ".join(f"{k!r}: {describe(v)}" for k, v in list(item.items())[:8]) + "}"
    if isinstance(item, (tuple, list)) and not isinstance(item, Batch):
        shown = ", ".join(describe(part) for part in item[:6]) + (", ..." if len(item) > 6 else "")
        return f"a {type(item).__name__} of {len(item)}: ({shown})"
    return type(item).__name__
