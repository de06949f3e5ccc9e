"""Stores a few sampled classes, from which sums over all classes are estimated without bias."""

from __future__ import annotations

from typing import Any, ClassVar, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from limbeck.cache.encodings.class_subset import ClassSubset
from limbeck.cache.encodings.encoding import Encoding, Records, check_integer, chunks, read
from limbeck.cache.encodings.log_quantization import Depths, floats, log_depths, values
from limbeck.cache.encodings.top_k import checked_bits
from limbeck.errors import ArgumentError
from limbeck.functional.sparse import FINE, log_partition_and_grad
from limbeck.partial_logits import PartialLogits, SampledLogits
from limbeck.random_seeds import counter_uniform, key, mix


@final
class SampledClasses(Encoding):
    r"""`draws` classes drawn from :math:`r_c \propto p_c^{power}`, with repetition, for unbiased estimates of p.

    The n-th class is drawn from the n-th of N equal slices of r (in the order of the classes), so that the expected
    number of times a class comes is :math:`N r_c`, as of independent draws, and its variance is never above theirs.
    Draws are a pure function of (id, view, position, seed): a record is the same in every batch and process.

    A record holds the largest logit, the logarithm of the sum over all classes at eight temperatures with its slope
    (float32: weights and entropy are exact at T = 0.5, 1, 2, 4, 8, 16 and 32, and refused below 0.5), that of r, the
    classes (Elias-Fano) and their logits (`Depths`). At T = 1 and `power` 1 every weight is 1 / N, whatever `bits` is.

    Args:
        classes: The number of logits in a row.
        draws: N, 1 or more.
        power: From 0 (uniform) to 2; 1 draws from p, at T = 1. For losses at T use 1 / T; above 1.5 / T they are
            refused.
        bits: Bits of each logit: 2 to 16, or 32.
        seed: The seed of the draws.

    Source: Anshumann et al., Sparse Logit Sampling: Accelerating Knowledge Distillation in LLMs, 2025,
        arXiv:2503.16870.
    """

    name: ClassVar[str] = "sampled"
    partial: ClassVar[type[PartialLogits] | None] = SampledLogits

    def __init__(self, *, classes: int, draws: int, power: float = 1.0, bits: int = 12, seed: int = 0) -> None:
        super().__init__(classes=classes)
        self.draws, self.bits = check_integer("draws", draws, 1), checked_bits(bits)
        if isinstance(power, bool) or not isinstance(power, (int, float)) or not 0 <= power <= 2:
            raise ArgumentError(
                f"power is a number from 0 to 2, and 1 draws from the teacher itself; got {power!r}.", argument="power"
            )
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ArgumentError(f"seed is a whole number; got {seed!r}.", argument="seed")
        self.power, self.seed = float(power), seed
        self._ids, self._depths = ClassSubset(draws, classes, repeats=True), Depths(draws, bits)
        self._whole = 4 + 8 * len(FINE)
        self.width = self._whole + 4 + self._ids.width + self._depths.width

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters."""
        return {"draws": self.draws, "power": self.power, "bits": self.bits, "seed": self.seed}

    def encode(
        self,
        logits: Float[Tensor, "rows classes"],
        *,
        id: Int[Tensor, " rows"],
        view: Int[Tensor, " rows"],
        position: Int[Tensor, " rows"],
    ) -> Records:
        """One record for each row, with draws that depend on its id, view and position."""
        uniform = self._uniform(id.cpu(), view.cpu(), position.cpu()).to(logits.device)
        parts = (self._encoded(logits[s], uniform[s]) for s in chunks(logits))
        return np.concatenate([np.zeros((0, self.width), np.uint8), *parts])

    def _uniform(self, id: Tensor, view: Tensor, position: Tensor) -> Float[Tensor, "rows draws"]:
        """A number in each of N equal slices of [0, 1), to 48 bits and more."""
        row = mix(mix(id.long() + key(self.seed, "row")) + position.long())
        uniform = counter_uniform(row, view, seed=self.seed, draws=2 * self.draws, stream="classes").double()
        high, low = uniform.unflatten(-1, (self.draws, 2)).unbind(-1)
        return (torch.arange(self.draws) + high + low * 2.0**-24) / self.draws

    def _encoded(self, part: Float[Tensor, "rows classes"], uniform: Float[Tensor, "rows draws"]) -> Records:
        logits, top = read(part, self.classes)
        depths = log_depths(logits, top)
        sums = log_partition_and_grad(depths, FINE)
        cumulative = (depths * self.power).exp().masked_fill(depths == -torch.inf, 0.0).cumsum(-1, dtype=torch.float64)
        total = cumulative[:, -1:]
        # right=True: a class without mass is never chosen. The end of the last slice may round up to the total.
        aim = torch.minimum(uniform * total, total * (1 - 2.0**-50))
        ids = torch.searchsorted(cumulative, aim, right=True).clamp_max(self.classes - 1)
        proposal = sums[:, 0, FINE.index(1.0), None] if self.power == 1 else total.log().float()
        classes, drawn = self._ids.pack(ids.cpu().numpy()), self._depths.pack(depths.gather(-1, ids))
        return np.concatenate([floats(top), floats(sums), floats(proposal), classes, drawn], axis=1)

    def decode(self, records: Records) -> SampledLogits:
        """Decode the rows: classes, their depths, and the sums over all classes."""
        records = self._checked(records)
        start, end = self._whole + 4, self._whole + 4 + self._ids.width
        numbers = torch.from_numpy(values(records[:, :start], "<f4").astype(np.float32))
        whole = numbers[:, 1:-1].unflatten(-1, (2, len(FINE)))
        ids, depths = torch.from_numpy(self._ids.unpack(records[:, start:end])), self._depths.unpack(records[:, end:])
        return SampledLogits(ids, depths, numbers[:, 0], whole, numbers[:, -1], power=self.power, classes=self.classes)
