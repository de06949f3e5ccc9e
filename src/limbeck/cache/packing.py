"""Packs sets of classes and logits into few bits."""

from __future__ import annotations

import math
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

from limbeck.cache.encoding import check_integer
from limbeck.errors import DataError
from limbeck.functional.sparse import DEEPEST

_PLANES = (8, 4, 2, 1)


def packed_bytes(count: int, bits: int) -> int:
    """The bytes of `count` numbers with `bits` bits each."""
    return sum(-(-count * plane // 8) for plane in _split(bits))


def pack(values: Integer[np.ndarray, "rows count"], bits: int) -> UInt8[np.ndarray, "rows width"]:
    """Pack each row's numbers in planes of 8, 4, 2 and 1 bits, the lowest bits first.

    A number of 11 bits is split into 8 + 2 + 1, so that all pieces of a plane have the same width.

    Example:
        >>> pack(np.array([[1, 2, 3]]), 2)
        array([[57]], dtype=uint8)
    """
    rows, count = values.shape
    parts = [np.zeros((rows, 0), dtype=np.uint8)]
    rest = values
    for plane in _split(bits):
        each = 8 // plane
        pieces = (rest & ((1 << plane) - 1)).astype(np.uint8)
        pieces = np.pad(pieces, ((0, 0), (0, -count % each))).reshape(rows, -(-count // each), each)
        parts.append(np.bitwise_or.reduce(pieces << _shifts(plane), axis=2))
        rest = rest >> plane
    return np.concatenate(parts, axis=1)


def unpack(packed: UInt8[np.ndarray, "rows width"], count: int, bits: int) -> Integer[np.ndarray, "rows count"]:
    """Unpack the numbers.

    Example:
        >>> unpack(np.array([[57]], dtype=np.uint8), 3, 2)
        array([[1, 2, 3]], dtype=int32)
    """
    rows = len(packed)
    values = np.zeros((rows, count), dtype=np.int32)
    start = shift = 0
    for plane in _split(bits):
        width = -(-count * plane // 8)
        part = packed[:, start : start + width]
        pieces = (part[:, :, None] >> _shifts(plane)) & ((1 << plane) - 1) if plane < 8 else part
        values |= pieces.reshape(rows, width * 8 // plane)[:, :count].astype(np.int32) << shift
        start, shift = start + width, shift + plane
    return values


def _shifts(plane: int) -> UInt8[np.ndarray, " each"]:
    return np.arange(0, 8, plane, dtype=np.uint8)


def _split(bits: int) -> list[int]:
    """The planes of a number of `bits` bits: 13 is 8 + 4 + 1."""
    planes = [8] * (bits // 8)
    return planes + [plane for plane in _PLANES[1:] if bits % 8 & plane]


@final
class ClassSubset:
    r"""Elias-Fano: `size` sorted classes of `classes`, the low bits of each unchanged, the high ones in unary.

    Class :math:`c_i` (from i = 0) is cut at bit l: its low l bits are packed, and of a bitmap the bit
    :math:`\lfloor c_i / 2^l \rfloor + i` is set. That takes :math:`l s + s + \lfloor (C - 1) / 2^l \rfloor` bits for s
    classes; the l with the fewest is taken. With no low bits a set needs no "+ i": it is a plain bitmap of C bits.

    Args:
        size: The number of classes in a row; the same for every row.
        classes: The number of all classes.
        repeats: Whether a class may occur more than once.
        beside: The bits of another number that is stored beside each class.

    Example:
        >>> ClassSubset(100, 1000).width, ClassSubset(50, 50257).width
        (66, 76)

    Source: Elias, 1974, J. ACM 21(2); Fano, 1971.
    """

    def __init__(self, size: int, classes: int, *, repeats: bool = False, beside: int = 0) -> None:
        self.size, self.classes, self._beside = size, classes, beside
        first = 1 if repeats else 0
        cost = {cut: size * cut + self._length(cut, repeats) for cut in range(max(classes - 1, 1).bit_length() + 1)}
        self.cut = min(cost, key=lambda cut: cost[cut])
        self._spread = 1 if self.cut or first else 0
        self._bitmap = -(-self._length(self.cut, repeats) // 8)
        self._low = packed_bytes(size, self.cut + beside)
        self.width = self._low + self._bitmap

    def _length(self, cut: int, repeats: bool) -> int:
        """Bits of the bitmap."""
        if cut == 0 and not repeats:
            return self.classes
        return self.size + ((self.classes - 1) >> cut)

    def pack(
        self, ids: Integer[np.ndarray, "rows size"], beside: Integer[np.ndarray, "rows size"] | int = 0
    ) -> UInt8[np.ndarray, "rows width"]:
        """Pack sorted rows of classes, and the numbers beside them."""
        rows = len(ids)
        bitmap = np.zeros((rows, self._bitmap * 8), dtype=np.uint8)
        places = (ids >> self.cut) + self._spread * np.arange(self.size)
        np.put_along_axis(bitmap, places, np.uint8(1), axis=1)
        low = pack(ids & ((1 << self.cut) - 1) | beside << self.cut, self.cut + self._beside)
        return np.concatenate([low, np.packbits(bitmap, axis=1, bitorder="little")], axis=1)

    def unpack(self, packed: UInt8[np.ndarray, "rows width"]) -> Integer[np.ndarray, "rows size"]:
        """Unpack the sorted rows.

        Raises:
            DataError: If the bytes are damaged.
        """
        bitmap = np.unpackbits(packed[:, self._low :], axis=1, bitorder="little")
        places = np.flatnonzero(bitmap)
        if len(places) != self.size * len(packed):
            raise self._damaged()
        start = self._spread * np.arange(self.size) + bitmap.shape[1] * np.arange(len(packed))[:, None]
        high = places.reshape(len(packed), self.size) - start
        ids = (high << self.cut) | (self._low_bits(packed) & ((1 << self.cut) - 1))
        if ids.size and not (int(ids.min()) >= 0 and int(ids.max()) < self.classes):
            raise self._damaged()
        return ids

    def unpack_beside(self, packed: UInt8[np.ndarray, "rows width"]) -> Integer[np.ndarray, "rows size"]:
        """Unpack the numbers beside the classes."""
        return self._low_bits(packed) >> self.cut

    def _low_bits(self, packed: UInt8[np.ndarray, "rows width"]) -> Integer[np.ndarray, "rows size"]:
        return unpack(packed[:, : self._low], self.size, self.cut + self._beside)

    def _damaged(self) -> DataError:
        return DataError(
            f"A stored record does not name {self.size} of {self.classes} classes: it is damaged, or has another "
            "encoding. Type: limbeck cache verify."
        )


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


@final
class CoarseDepths:
    r"""The distances of logits below the largest, in nats, in few steps between the second and the deepest of the row.

    Code 0 is the largest logit, exactly. Code c of the L others stands for
    :math:`F + (S - F) ((c - 1) / (L - 1))^{1.5}`, with F the smallest depth above 0 and S the largest, both rounded
    outwards to 7 and 8 bits. At T = 1 the error of a class counts by its probability, and classes at all depths have
    about the same probability together, so the steps are nearly even. If a row has -inf, its highest code is -inf.

    Args:
        bits: 2 to 8.
    """

    header = 2
    """Bytes of a row beside the codes."""

    def __init__(self, bits: int) -> None:
        self.bits = check_integer("bits", bits, 2, 8)
        self._gone = (1 << bits) - 1

    def pack(
        self, depths: Float[Tensor, "rows count"]
    ) -> tuple[UInt8[np.ndarray, "rows 2"], Integer[np.ndarray, "rows count"]]:
        """Find the header and the codes of depths (0 or below, none NaN)."""
        gone = depths == -torch.inf
        down = depths.neg().masked_fill(gone, 0.0)
        deepest = down.amax(-1, keepdim=True)
        first = torch.where(down > 0, down, deepest).amin(-1, keepdim=True)
        ends = torch.cat([(_byte(first) / 2).floor() * 2 + gone.any(-1, keepdim=True), _byte(deepest).ceil()], -1)
        header = ends.clamp_max(255.0).to(torch.uint8)
        first, span, steps = self._scale(header)
        share = ((down - first).clamp_min(0.0) / span).pow(1 / _BEND).mul_(steps)
        code = share.round().minimum(steps) + 1.0
        code = code.masked_fill(down == 0, 0.0).masked_fill(gone, float(self._gone))
        return header.cpu().numpy(), code.to(torch.int32).cpu().numpy()

    def unpack(
        self, header: UInt8[np.ndarray, "rows 2"], code: Integer[np.ndarray, "rows count"]
    ) -> Float[Tensor, "rows count"]:
        """Return the depths, in float32."""
        first, span, steps = self._scale(torch.from_numpy(np.ascontiguousarray(header)))
        number = torch.from_numpy(code).float()
        depths = -(first + span * ((number - 1.0).clamp_min(0.0) / steps).pow(_BEND))
        gone = (number == self._gone) & (steps < self._gone - 1)
        return depths.masked_fill(number == 0, 0.0).masked_fill(gone, -torch.inf)

    def _scale(self, header: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The first depth, the distance to the deepest, and the number of steps: one less if there is -inf."""
        some_gone = (header[:, :1] & 1).float()
        first, deepest = (torch.expm1(end.float() * _BYTE_STEP) for end in (header[:, :1] & 254, header[:, 1:]))
        return first, (deepest - first).clamp_min(torch.finfo(torch.float32).tiny), self._gone - 1 - some_gone


_BEND = 1.5
_BYTE_STEP = math.log1p(DEEPEST) / 255


def _byte(depth: Tensor) -> Tensor:
    """A depth on a logarithmic scale from 0 to 255."""
    return depth.log1p() / _BYTE_STEP


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


def check_bits(bits: int) -> int:
    """Check the number of bits of a value: 2 to 16, or 32."""
    if bits == EXACT and not isinstance(bits, bool):
        return bits
    return check_integer("bits (or 32, for float32)", bits, 2, HALF)
