"""Logits of all classes: float32, float16, bfloat16, or quantized to a few bits."""

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.cache.encoding import Encoding, LogitRows, Records
from limbeck.cache.packing import Depths, check_bits, floats, log_depths, values

_HALF_MAX = 65504.0
_GIANT = 2.0**30  # float32 numbers of that size are 128 apart, so distances up to 16,384 are still represented


@final
class Float32(Encoding):
    """Every logit unchanged: 4 bytes a class, exact for a teacher with outputs in float32 or less."""

    name: ClassVar[str] = "float32"

    def __init__(self, *, classes: int) -> None:
        super().__init__(classes=classes)
        self.width = 4 * classes

    def _encode(self, rows: LogitRows) -> Records:
        return floats(rows.logits)

    def decode(self, records: Records) -> Tensor:
        """The logits."""
        return torch.from_numpy(values(self._checked(records), "<f4").astype(np.float32))


@final
class Float16(Encoding):
    r"""Two bytes a class and four more: exact for a teacher with outputs in float16, close for any other.

    A row that float16 represents exactly is stored as it is. For any other row the largest logit is stored in float32,
    and every logit as its distance from that: the rounding error is at most 1/2048 of the distance, so likely classes
    are most exact, and logits of 100,000 do not become infinite. A distance beyond 65,504 is stored as 65,504; -inf
    stays -inf. If the largest is beyond 1e9, only the distances are stored, as if it were 0: the softmax is the same.
    """

    name: ClassVar[str] = "float16"

    def __init__(self, *, classes: int) -> None:
        super().__init__(classes=classes)
        self.width = 4 + 2 * classes

    def _encode(self, rows: LogitRows) -> Records:
        logits, top = rows.logits, rows.top
        # The level is 0 for an exact row, and for a row of only -inf.
        exact = (logits.half().float() == logits).all(-1)
        level = top.masked_fill(exact | (top == -torch.inf), 0.0)
        apart = (logits - level.unsqueeze(-1)).clamp_min(-_HALF_MAX).masked_fill(logits == -torch.inf, -torch.inf)
        return np.concatenate([floats(_small(level)), floats(apart, "<f2")], axis=1)

    def decode(self, records: Records) -> Tensor:
        """The logits, in float32."""
        records = self._checked(records)
        level = torch.from_numpy(values(records[:, :4], "<f4").astype(np.float32))
        return level + torch.from_numpy(values(records[:, 4:], "<f2").astype(np.float32))


@final
class BFloat16(Encoding):
    """Two bytes a class: exact for a teacher with outputs in bfloat16; others are rounded to 8 significant bits.

    A value that would round to infinity is stored as the largest finite one.
    """

    name: ClassVar[str] = "bfloat16"

    def __init__(self, *, classes: int) -> None:
        super().__init__(classes=classes)
        self.width = 2 * classes

    def _encode(self, rows: LogitRows) -> Records:
        logits, largest = rows.logits, torch.finfo(torch.bfloat16).max
        narrow = logits.clamp(-largest, largest).masked_fill(logits == -torch.inf, -torch.inf).bfloat16()
        return narrow.view(torch.int16).cpu().numpy().astype("<i2").view(np.uint8)

    def decode(self, records: Records) -> Tensor:
        """The logits, in float32."""
        bits = torch.from_numpy(values(self._checked(records), "<i2").astype(np.int16))
        return bits.view(torch.bfloat16).float()


@final
class Quantized(Encoding):
    """Every logit in `bits` bits, by its depth below the largest: about a byte a class, for any divergence.

    A record holds the largest logit (float32), the deepest and a code for each class (`Depths`). If the largest is
    beyond 1e9, only the depths are stored, as if it were 0: the softmax is the same.

    Args:
        classes: The number of logits in a row.
        bits: 2 to 16, or 32.
    """

    name: ClassVar[str] = "quantized"

    def __init__(self, *, classes: int, bits: int = 8) -> None:
        super().__init__(classes=classes)
        self.bits = check_bits(bits)
        self._depths = Depths(classes, bits)
        self.width = 4 + self._depths.width

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters."""
        return {"bits": self.bits}

    def _encode(self, rows: LogitRows) -> Records:
        logits, top = rows.logits, rows.top
        level = _small(top.masked_fill(top == -torch.inf, 0.0))
        return np.concatenate([floats(level), self._depths.pack(log_depths(logits, top))], axis=1)

    def decode(self, records: Records) -> Tensor:
        """The logits, in float32."""
        records = self._checked(records)
        top = torch.from_numpy(values(records[:, :4], "<f4").astype(np.float32))
        return top + self._depths.unpack(records[:, 4:])


def _small(level: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    """The level of each row; 0 where its rounding error would exceed the distances from it."""
    return torch.where(level.abs() < _GIANT, level, 0.0)
