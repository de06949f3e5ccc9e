"""Encodings of some of the classes: the k most likely ones, or a sample."""

from __future__ import annotations

import math
from typing import Any, ClassVar, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.cache.encoding import Encoding, LogitRows, Records, check_integer
from limbeck.cache.packing import EXACT, ClassSubset, CoarseDepths, Depths, check_bits, floats, log_depths, values
from limbeck.errors import ArgumentError, DataError, LimbeckError
from limbeck.functional.sparse import COARSE, DENSE, FINE, dense_sums, log_partition_and_grad
from limbeck.mean_embedding import MeanEmbedding
from limbeck.random_seeds import counter_uniform, key, mix
from limbeck.top_k_logits import PartialLogits, SampledLogits, TopKLogits

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
        self.k, self.bits = check_classes(k, classes), check_bits(bits)
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

    def _encode(self, rows: LogitRows) -> Records:
        logits, top = rows.logits, rows.top
        # Among equal logits at position k, any may be chosen.
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


@final
class ListedClasses(Encoding):
    r"""The k largest log-probabilities at one temperature, and the rest's: what a server lists, in few bytes.

    It is `TopClasses` without the other temperatures: a record holds the largest logit and the logarithm of the others'
    mass (float32 each), the classes and the values. Stored mass and rest are exact at this temperature, and a loss at
    another one is refused. It stores the logits of all classes, and `limbeck.top_k_logits.TopKLogits` that are known
    at this temperature.

    Args:
        classes: The number of logits in a row.
        k: The number of stored classes, 1 to `classes`.
        bits: 2 to 16, or 32 for float32.
        temperature: T of the later losses.
    """

    name: ClassVar[str] = "listed"
    partial: ClassVar[type[PartialLogits] | None] = TopKLogits
    takes_partial: ClassVar[bool] = True

    def __init__(self, *, classes: int, k: int, bits: int = 10, temperature: float = 1.0) -> None:
        super().__init__(classes=classes)
        self.k, self.bits = check_classes(k, classes), check_bits(bits)
        _checked_temperatures([temperature])
        self.temperature = float(temperature)
        self._ids, self._depths = ClassSubset(k, classes), Depths(k, bits)
        self.width = 8 + self._ids.width + self._depths.width

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters."""
        return {"k": self.k, "bits": self.bits, "temperature": self.temperature}

    def _encode(self, rows: LogitRows) -> Records:
        logits, top = rows.logits, rows.top
        ids = logits.topk(self.k, -1, sorted=False).indices.sort(-1).values
        depths = log_depths(logits, top)
        selected = depths.gather(-1, ids)
        rest = (depths.scatter_(-1, ids, -torch.inf) / self.temperature).logsumexp(-1)
        return self._pack(ids, selected, top, rest)

    def _encode_partial(self, partial: PartialLogits) -> Records:
        if not isinstance(partial, TopKLogits):
            raise LimbeckError(
                f"The encoding 'listed' stores a list of classes, and this teacher gives a {type(partial).__name__}: "
                "cache the teacher that it is made of."
            )
        if partial.classes != self.classes or partial.ids.shape[-1] != self.k:
            raise LimbeckError(
                f"These are {partial.ids.shape[-1]} of {partial.classes} classes, and the encoding stores {self.k} of "
                f"{self.classes}: use k={partial.ids.shape[-1]}."
            )
        rest = partial.coarse(self.temperature)[..., -1] / self.temperature
        ids, order = partial.ids.sort(-1)
        return self._pack(ids, partial.depths.float().gather(-1, order), partial.top.float(), rest.float())

    def _pack(self, ids: Tensor, depths: Tensor, top: Tensor, rest: Tensor) -> Records:
        """The records; top and rest are shifted so that rounding the values changes no mass."""
        packed = self._depths.pack(depths)
        stored = self._depths.unpack(packed).to(depths.device)
        lost = ((depths / self.temperature).logsumexp(-1) - (stored / self.temperature).logsumexp(-1)).nan_to_num(0.0)
        classes = self._ids.pack(ids.cpu().numpy())
        return np.concatenate([floats(top + self.temperature * lost), floats(rest - lost), classes, packed], axis=1)

    def decode(self, records: Records) -> TopKLogits:
        """Decode the rows: classes, depths, and the rest at the temperature."""
        records = self._checked(records)
        middle = 8 + self._ids.width
        numbers = torch.from_numpy(values(records[:, :8], "<f4").astype(np.float32))
        ids = torch.from_numpy(self._ids.unpack(records[:, 8:middle]))
        rest = torch.stack([numbers[:, 1:], torch.zeros_like(numbers[:, 1:])], 1)
        grid, depths = (1 / self.temperature,), self._depths.unpack(records[:, middle:])
        return TopKLogits(ids, depths, numbers[:, 0], rest, classes=self.classes, grid=grid)


@final
class MeanEmbeddings(Encoding):
    r"""The mean of a frozen student's output embeddings under the teacher: about 2 x width bytes, for forward KL.

    A record holds the entropy, the mean bias (float32 each) and the mean embedding. It stores what a
    `limbeck.teachers.MeanEmbeddingTeacher` gives, whose `encoding` has the parameters.

    Args:
        classes: The number of logits in a row.
        width: The number of hidden states of the student's output layer.
        temperature: T of the later loss.
        layer: `limbeck.mean_embedding.mark_layer` of that layer.
        bits: 16 or 32 for each number.
    """

    name: ClassVar[str] = "mean-embedding"
    partial: ClassVar[type[PartialLogits] | None] = MeanEmbedding
    takes_partial: ClassVar[bool] = True

    def __init__(self, *, classes: int, width: int, layer: str, temperature: float = 1.0, bits: int = 16) -> None:
        super().__init__(classes=classes)
        if bits not in (16, EXACT) or isinstance(bits, bool):
            raise ArgumentError(f"bits of a mean embedding is 16 or 32; got {bits!r}.", argument="bits")
        _checked_temperatures([temperature])
        if not isinstance(layer, str):
            raise ArgumentError(f"layer is the checksum of an output layer; got {layer!r}.", argument="layer")
        self.size, self.layer = check_integer("width", width, 1), layer
        self.temperature, self.bits = float(temperature), bits
        self.width = 8 + bits // 8 * self.size

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters."""
        return {"width": self.size, "layer": self.layer, "temperature": self.temperature, "bits": self.bits}

    def _encode(self, rows: LogitRows) -> Records:
        raise LimbeckError(
            "Mean embeddings need the student's output layer: cache a MeanEmbeddingTeacher(teacher, student) with its "
            "encoding."
        )

    def _encode_partial(self, partial: PartialLogits) -> Records:
        own = isinstance(partial, MeanEmbedding) and (partial.mean.shape[-1], partial.temperature, partial.layer_mark)
        if not isinstance(partial, MeanEmbedding) or own != (self.size, self.temperature, self.layer):
            raise LimbeckError(
                f"The encoding {self.spec} stores the mean embeddings of another layer or temperature, or this teacher "
                f"gives none ({type(partial).__name__}). Use the encoding of the MeanEmbeddingTeacher."
            )
        kind = "<f2" if self.bits == 16 else "<f4"
        numbers = torch.stack([partial.entropy, partial.bias], -1).float()
        if not bool(numbers.isfinite().all()) or not bool(partial.mean.isfinite().all()):
            raise DataError("The teacher's mean embeddings hold NaN or infinity, which cannot be stored.")
        return np.concatenate([floats(numbers), floats(partial.mean.float(), kind)], axis=1)

    def decode(self, records: Records) -> MeanEmbedding:
        """Decode the rows."""
        records = self._checked(records)
        numbers = torch.from_numpy(values(records[:, :8], "<f4").astype(np.float32))
        mean = torch.from_numpy(values(records[:, 8:], "<f2" if self.bits == 16 else "<f4").astype(np.float32))
        return MeanEmbedding(
            numbers[:, 0], mean, numbers[:, 1],
            classes=self.classes, temperature=self.temperature, layer_mark=self.layer,
        )  # fmt: skip


def check_classes(k: int, classes: int) -> int:
    """Check the number of stored classes."""
    if check_integer("k", k, 1) > classes:
        raise ArgumentError(
            f"k={k} of {classes} classes: there are no more. For all of them: 'quantized' or 'float16'.", argument="k"
        )
    return k


@final
class CompactTopClasses(Encoding):
    r"""The k largest logits for one temperature, in as few bytes as possible: for language models.

    A record holds the logarithm of the others' mass at `temperature` (float16), the classes (Elias-Fano) and the values
    (`CoarseDepths`). Unlike ``top-k`` it has no raw logits, only log-probabilities at this temperature, and no masses
    at other ones: 20 bytes less, and nearly even steps, of which three bits are enough. The stored mass and that of the
    rest are those of the teacher; nothing is renormalized over k.

    Args:
        classes: The number of logits in a row.
        k: The number of stored classes, 1 to `classes`.
        bits: Bits of each value, 2 to 8.
        temperature: The only temperature at which a loss can use it.
    """

    name: ClassVar[str] = "compact-top-k"
    partial: ClassVar[type[PartialLogits] | None] = TopKLogits

    def __init__(self, *, classes: int, k: int, bits: int = 4, temperature: float = 1.0) -> None:
        super().__init__(classes=classes)
        self.k = check_classes(k, classes)
        if isinstance(temperature, bool) or not isinstance(temperature, (int, float)) or not 0 < temperature < math.inf:
            raise ArgumentError(f"temperature is a number above 0; got {temperature!r}.", argument="temperature")
        self.temperature = float(temperature)
        self._depths = CoarseDepths(bits)
        self._ids = ClassSubset(k, classes, beside=bits)
        self._start = 2 + self._depths.header
        self.width = self._start + self._ids.width

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters."""
        return {"k": self.k, "bits": self._depths.bits, "temperature": self.temperature}

    def _encode(self, rows: LogitRows) -> Records:
        ids = rows.logits.topk(self.k, -1, sorted=False).indices.sort(-1).values
        depths = log_depths(rows.logits, rows.top)
        selected = depths.gather(-1, ids)
        rest = (depths.scatter_(-1, ids, -torch.inf) / self.temperature).logsumexp(-1)
        header, codes = self._depths.pack(selected)
        kept = self._depths.unpack(header, codes).to(rest.device)
        lost = ((selected / self.temperature).logsumexp(-1) - (kept / self.temperature).logsumexp(-1)).nan_to_num(0.0)
        return np.concatenate([floats(rest - lost, "<f2"), header, self._ids.pack(ids.cpu().numpy(), codes)], axis=1)

    def decode(self, records: Records) -> TopKLogits:
        """Decode the rows: classes, depths, and the rest."""
        records = self._checked(records)
        packed = records[:, self._start :]
        rest = torch.from_numpy(values(records[:, :2], "<f2").astype(np.float32)).flatten()
        ids = torch.from_numpy(self._ids.unpack(packed))
        depths = self._depths.unpack(records[:, 2 : self._start], self._ids.unpack_beside(packed))
        top = -self.temperature * torch.cat([depths / self.temperature, rest.unsqueeze(-1)], -1).logsumexp(-1)
        nodes = torch.stack([rest, torch.zeros_like(rest)], -1).unsqueeze(-1)
        return TopKLogits(ids, depths, top, nodes, classes=self.classes, grid=(1 / self.temperature,))


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
        self.draws, self.bits = check_integer("draws", draws, 1), check_bits(bits)
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

    def _uniform(self, id: Tensor, view: Tensor, position: Tensor) -> Float[Tensor, "rows draws"]:
        """A number in each of N equal slices of [0, 1), to 48 bits and more."""
        row = mix(mix(id.long() + key(self.seed, "row")) + position.long())
        uniform = counter_uniform(row, view, seed=self.seed, draws=2 * self.draws, stream="classes").double()
        high, low = uniform.unflatten(-1, (self.draws, 2)).unbind(-1)
        return (torch.arange(self.draws) + high + low * 2.0**-24) / self.draws

    def _encode(self, rows: LogitRows) -> Records:
        logits, top = rows.logits, rows.top
        uniform = self._uniform(rows.id.cpu(), rows.view.cpu(), rows.position.cpu()).to(logits.device)
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
