"""How are whole numbers of so many bits packed into bytes, and unpacked without a loop over rows?"""

from __future__ import annotations

import numpy as np
from jaxtyping import Integer, UInt8

_PLANES = (8, 4, 2, 1)


def packed_bytes(count: int, bits: int) -> int:
    """How many bytes `count` numbers of `bits` bits take."""
    return sum(-(-count * plane // 8) for plane in _split(bits))


def pack(values: Integer[np.ndarray, "rows count"], bits: int) -> UInt8[np.ndarray, "rows width"]:
    """Each row's numbers, one after the other in planes of 8, 4, 2 and 1 bits, the lowest bits first.

    A number of 11 bits is cut into 8 + 2 + 1: within a plane all pieces are equally wide, and so is the work.

    Example:
        >>> pack(np.array([[1, 2, 3]]), 2)
        array([[57]], dtype=uint8)
    """
    rows, count = values.shape
    found = [np.zeros((rows, 0), dtype=np.uint8)]
    rest = values
    for plane in _split(bits):
        each = 8 // plane
        pieces = (rest & ((1 << plane) - 1)).astype(np.uint8)
        pieces = np.pad(pieces, ((0, 0), (0, -count % each))).reshape(rows, -(-count // each), each)
        found.append(np.bitwise_or.reduce(pieces << _shifts(plane), axis=2))
        rest = rest >> plane
    return np.concatenate(found, axis=1)


def unpack(packed: UInt8[np.ndarray, "rows width"], count: int, bits: int) -> Integer[np.ndarray, "rows count"]:
    """The numbers again.

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
