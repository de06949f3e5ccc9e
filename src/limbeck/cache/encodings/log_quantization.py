"""Quantizes logits to a few bits each, most exact for the largest ones."""

from __future__ import annotations

import math
from typing import final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from limbeck.cache.encodings.class_subset import pack, packed_bytes, unpack
from limbeck.functional.sparse import DEEPEST

EXACT = 32
HALF = 16


@final
class Depths:
    r"""The distance of each logit of a row below the largest, in nats, at `bits` bits each.

    With 2 to 15 bits, code c of :math:`0 .. L` stands for :math:`e^{c / L \log(1 + S)} - 1`, S being the deepest of the
    row: steps grow as depth + 1 does. A step near the top is :math:`\log(1 + S) / L` nats, where probability lies at
    T = 1; further down it is the same fraction of the depth, which a higher temperature divides. The highest code is
    -inf. With 16 bits each depth is a float16, with 32 a float32.

    A finite logit deeper than 16,384 nats is stored with that depth: no usual temperature tells the two apart.

    Args:
        count: The number of logits in a row.
        bits: 2 to 16, or 32.
    """

    def __init__(self, count: int, bits: int) -> None:
        self.count, self.bits = count, bits
        self._levels = (1 << bits) - 2 if bits < HALF else 0
        self._header = 2 if bits < HALF else 0
        self.width = self._header + packed_bytes(count, bits)

    def pack(self, depths: Float[Tensor, "rows count"]) -> UInt8[np.ndarray, "rows width"]:
        """Pack depths (0 or below, none NaN)."""
        if self.bits >= HALF:
            kind = "<f2" if self.bits == HALF else "<f4"
            return _bytes(depths.contiguous().cpu().numpy().astype(kind))
        gone = depths == -torch.inf
        down = depths.neg().masked_fill(gone, 0.0)
        deepest = _half_above(down.amax(-1, keepdim=True))
        scale = self._levels / deepest.log1p().clamp_min(1e-30)
        code = (down.log1p() * scale).round().clamp_max(self._levels).masked_fill(gone, self._levels + 1)
        header = _bytes(deepest.cpu().numpy().astype("<f2"))
        return np.concatenate([header, pack(code.to(torch.int32).cpu().numpy(), self.bits)], axis=1)

    def unpack(self, packed: UInt8[np.ndarray, "rows width"]) -> Float[Tensor, "rows count"]:
        """Unpack the depths, in float32."""
        if self.bits >= HALF:
            kind = "<f2" if self.bits == HALF else "<f4"
            return torch.from_numpy(values(packed, kind).astype(np.float32))
        step = np.log1p(values(packed[:, :2], "<f2").astype(np.float32)) / self._levels
        code = unpack(packed[:, 2:], self.count, self.bits)
        depths = -np.expm1(code.astype(np.float32) * step)
        depths[code > self._levels] = -math.inf
        return torch.from_numpy(depths)


def log_depths(logits: Float[Tensor, "rows some"], top: Float[Tensor, " rows"]) -> Float[Tensor, "rows some"]:
    """Depths: logits minus the largest of their row, clipped at -16,384 if finite."""
    level = top.masked_fill(top == -torch.inf, 0.0).unsqueeze(-1)
    depths = (logits - level).clamp_min_(-DEEPEST)
    if bool(logits.amin() > -torch.inf):
        return depths
    return depths.masked_fill_(logits == -torch.inf, -torch.inf)


def values(packed: UInt8[np.ndarray, "rows width"], kind: str) -> np.ndarray:
    """The numbers in each row, with a dtype such as ``<f4``."""
    return np.ascontiguousarray(packed).view(kind)


def _bytes(numbers: np.ndarray) -> UInt8[np.ndarray, "rows width"]:
    return np.ascontiguousarray(numbers).view(np.uint8)


def floats(tensor: Tensor, kind: str = "<f4") -> UInt8[np.ndarray, "rows width"]:
    """Each row's numbers as bytes: ``<f4``, or ``<f2`` with larger values clipped."""
    numbers = tensor.detach().cpu().numpy().reshape(len(tensor), math.prod(tensor.shape[1:]))
    if kind == "<f2":
        numbers = np.where(np.isinf(numbers), numbers, np.clip(numbers, -65504.0, 65504.0))
    return _bytes(numbers.astype(kind))


def _half_above(number: Tensor) -> Tensor:
    """Round up to float16, as a float32."""
    half = number.half()
    # For numbers that are not negative, the next bit pattern is the next larger number.
    up = (half.view(torch.int16) + 1).view(torch.float16)
    return torch.where(half.float() < number, up, half).float()
