"""Helpers: rows of encoded outputs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from limbeck.cache import Encoding


def encoded(encoding: Encoding, logits: Tensor, *, id: int = 0) -> np.ndarray:
    rows = torch.arange(len(logits))
    return encoding.encode(logits, id=rows + id, view=rows * 0, position=rows * 0)


def again(encoding: Encoding, logits: Tensor, *, id: int = 0):
    records = encoded(encoding, logits, id=id)
    assert records.dtype == np.uint8
    assert records.shape == (len(logits), encoding.width)
    return encoding.decode(records)
