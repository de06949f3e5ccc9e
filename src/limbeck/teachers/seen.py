"""Whether an example is the one that was answered: what its inputs were, in two numbers."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.functional.counter import mix
from limbeck.signal import Batch

Marks = NDArray[np.int64]

_MOST = 4096  # numbers of an example that are looked at, evenly over all of them
_NEAR = 1e-5  # of the sum of magnitudes: last bits may depend on the batch in which inputs were made


def marks_of(batch: Batch) -> Marks:
    """Two numbers for each example's inputs, ``[n, 2]``: one of its whole numbers, one of its fractions.

    Padding is left out, so that the same text has the same marks beside a longer one.
    """
    whole = torch.zeros(batch.size, dtype=torch.int64)
    fractions = torch.zeros(batch.size, dtype=torch.float64)
    counted = _counted(batch)
    for number, part in enumerate(_parts(batch.inputs)):
        tensor = part.detach().cpu()
        if len(tensor) != batch.size:
            continue
        rows, here = _rows(tensor, counted)
        if rows.is_floating_point():
            fractions += (rows.double().nan_to_num() * here * _weights(here, number)).sum(1)
        else:
            keyed = mix(mix(rows.long() + 1) ^ mix(here.cumsum(1) + (number << 32)))
            whole = mix(whole + torch.where(here, keyed, 0).sum(1))
    return np.stack([whole.numpy(), fractions.numpy().view(np.int64)], 1)


def differ(marks: Marks, before: Marks) -> NDArray[np.bool_]:
    """Which examples have other inputs than before; those of which nothing was written down have not."""
    now, then = (np.ascontiguousarray(one[:, 1]).view(np.float64) for one in (marks, before))
    far = np.abs(now - then) > _NEAR * np.maximum(np.abs(now), np.abs(then)) + _NEAR
    return ((marks[:, 0] != before[:, 0]) | far) & before.any(1)


def _parts(inputs: Any) -> Iterator[Tensor]:
    """The tensors that a model is called with; texts as numbers."""
    if isinstance(inputs, Tensor):
        yield inputs
    elif isinstance(inputs, Mapping):
        for name in sorted(inputs, key=str):
            yield from _parts(inputs[name])
    elif isinstance(inputs, (tuple, list)) and inputs and isinstance(inputs[0], str):
        yield torch.tensor([zlib.crc32(text.encode()) for text in inputs])
    elif isinstance(inputs, (tuple, list)):
        for part in inputs:
            yield from _parts(part)


def _counted(batch: Batch) -> Tensor | None:
    """Which tokens of each text are its own."""
    mask = batch.inputs.get("attention_mask") if isinstance(batch.inputs, Mapping) else None
    mask = batch.mask if mask is None else mask
    return mask.cpu().bool() if isinstance(mask, Tensor) and mask.ndim == 2 else None


def _rows(tensor: Tensor, counted: Tensor | None) -> tuple[Tensor, Tensor]:
    """Each example's numbers in one row, and which of them count."""
    if counted is not None and tensor.shape[:2] == counted.shape:
        here = counted.reshape(*counted.shape, *[1] * (tensor.ndim - 2)).expand(tensor.shape)
        return tensor.flatten(1), here.flatten(1)
    rows = tensor.reshape(len(tensor), -1)
    if rows.shape[1] > _MOST:
        rows = rows[:, torch.linspace(0, rows.shape[1] - 1, _MOST).long()]
    return rows, torch.ones_like(rows, dtype=torch.bool)


def _weights(here: Tensor, number: int) -> Tensor:
    """A number from 0.5 to 1.5 for each place among those that count, so that what is exchanged is seen."""
    return (mix(here.cumsum(1) + (number << 32)) & 0xFFFF).double() / 2**16 + 0.5
