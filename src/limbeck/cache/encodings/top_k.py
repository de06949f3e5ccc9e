"""Stores the k most likely classes and the total mass of all others, at several temperatures."""

from __future__ import annotations

import math
from typing import Any, ClassVar, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.cache.encodings.class_subset import ClassSubset
from limbeck.cache.encodings.encoding import Encoding, Records, check_integer, chunks, read
from limbeck.cache.encodings.log_quantization import EXACT, HALF, Depths, floats, log_depths, values
from limbeck.errors import ArgumentError, LimbeckError
from limbeck.functional.sparse import COARSE, DENSE, dense_sums, log_partition_and_grad
from limbeck.partial_logits import PartialLogits, TopKLogits

MOST_TEMPERATURES = 8


@final
class TopClasses(Encoding):
    r"""The k largest logits: their classes exactly, their values at `bits` bits each, and all others as one bucket.

    A record holds the largest logit (float32), the logarithm of the others' mass at T = 1, 4, 16, infinity and
    `temperatures`, with its slope (float16), the classes (Elias-Fano, about :math:`\log_2 (C / k) + 2` bits each) and
    the values (`Depths`). Where `bits` is 32 all is float32, and the rest is stored at so many temperatures that
    its error is at most 5e-5 at any T of 0.5 and above. The stored logits are shifted together so that rounding does
    not change their mass: stored mass and rest are exact at T = 1, and nothing is renormalized over k.

    Args:
        classes: The number of logits in a row.
        k: The number of stored classes, 1 to `classes`.
        bits: 2 to 16, or 32 for float32.
        temperatures: Further temperatures at which the rest is stored. Below 32 bits a loss at any other one is
            refused, as the rest there is not known.
    """

    name: ClassVar[str] = "top-k"
    partial: ClassVar[type[PartialLogits] | None] = TopKLogits

    def __init__(self, *, classes: int, k: int, bits: int = 10, temperatures: Any = ()) -> None:
        super().__init__(classes=classes)
        self.k = check_integer("k", k, 1)
        if self.k > classes:
            raise ArgumentError(
                f"k={k} of {classes} classes: there are no more. For all of them: 'quantized' or 'float16'.",
                argument="k",
            )
        self.bits = checked_bits(bits)
        self._ids, self._depths = ClassSubset(k, classes), Depths(k, bits)
        self._kind, each = ("<f4", 4) if bits == EXACT else ("<f2", 2)
        self.temperatures = _checked_temperatures(temperatures)
        self._grid = DENSE if bits == EXACT else (*COARSE, *(1 / value for value in self.temperatures))
        self._nodes = len(self._grid)
        self._rest = 4 + 2 * self._nodes * each
        self.width = self._rest + self._ids.width + self._depths.width

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters."""
        extra = {"temperatures": list(self.temperatures)} if self.temperatures else {}
        return {"k": self.k, "bits": self.bits, **extra}

    def encode(
        self,
        logits: Float[Tensor, "rows classes"],
        *,
        id: Int[Tensor, " rows"],
        view: Int[Tensor, " rows"],
        position: Int[Tensor, " rows"],
    ) -> Records:
        """One record for each row; among equal logits at position k, any may be chosen."""
        del id, view, position  # nothing is drawn
        return np.concatenate(
            [np.zeros((0, self.width), np.uint8), *(self._encoded(logits[s]) for s in chunks(logits))]
        )

    def _encoded(self, part: Float[Tensor, "rows classes"]) -> Records:
        logits, top = read(part, self.classes)
        ids = logits.topk(self.k, -1, sorted=False).indices.sort(-1).values
        depths = log_depths(logits, top)
        selected = depths.gather(-1, ids)
        others = depths.scatter_(-1, ids, -torch.inf)
        rest = self._sums(others)
        packed = self._depths.pack(selected)
        lost = selected.logsumexp(-1).cpu() - self._depths.unpack(packed).logsumexp(-1)
        lost = lost.nan_to_num(0.0).to(top.device)
        rest[:, 0] -= lost.unsqueeze(-1) * rest.new_tensor(self._grid)
        rest[:, 1] -= lost.unsqueeze(-1)
        classes = self._ids.pack(ids.cpu().numpy())
        return np.concatenate([floats(top + lost), floats(rest, self._kind), classes, packed], axis=1)

    def _sums(self, others: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows 2 nodes"]:
        if self._grid == DENSE:
            return dense_sums(others)
        also = [log_partition_and_grad(others, (0.0, 1 / temperature))[..., 1:] for temperature in self.temperatures]
        return torch.cat([log_partition_and_grad(others, COARSE), *also], -1)

    def decode(self, records: Records) -> TopKLogits:
        """Decode the rows: classes, depths, and the rest."""
        records = self._checked(records)
        middle = self._rest + self._ids.width
        top = torch.from_numpy(values(records[:, :4], "<f4").astype(np.float32)).flatten()
        rest = torch.from_numpy(values(records[:, 4 : self._rest], self._kind).astype(np.float32))
        ids = torch.from_numpy(self._ids.unpack(records[:, self._rest : middle]))
        depths = self._depths.unpack(records[:, middle:])
        return TopKLogits(ids, depths, top, rest.unflatten(-1, (2, self._nodes)), classes=self.classes, grid=self._grid)


def _checked_temperatures(temperatures: Any) -> tuple[float, ...]:
    """The temperatures that not every record has, sorted."""
    if isinstance(temperatures, (str, int, float)) or not all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
        for value in temperatures
    ):
        raise ArgumentError(
            f"temperatures= must be a list of numbers above 0, such as [2.0]; got {temperatures!r}.",
            argument="temperatures",
            example="[2.0]",
        )
    standard = [1 / beta for beta in COARSE if beta]
    extra = tuple(sorted({float(value) for value in temperatures} - {float(value) for value in standard}))
    if len(extra) > MOST_TEMPERATURES:
        raise LimbeckError(
            f"A top-k record keeps the rest at {MOST_TEMPERATURES} temperatures more at most, and these are "
            f"{len(extra)}: if the temperature changes, use 'quantized', which supports every one."
        )
    return extra


def checked_bits(bits: int) -> int:
    """Check the number of bits of a value: 2 to 16, or 32."""
    return (
        bits
        if bits == EXACT and not isinstance(bits, bool)
        else check_integer("bits (or 32, for float32)", bits, 2, HALF)
    )
