"""How does a small picture become a file that a page can hold?"""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np


def png(pixels: np.ndarray) -> bytes:
    r"""A PNG file of bytes ``[height, width]`` (grey) or ``[height, width, 3 | 4]`` (red, green, blue, opacity).

    Example:
        >>> png(np.zeros((2, 2), dtype=np.uint8))[:4]
        b'\x89PNG'
    """
    height, width = pixels.shape[:2]
    kind = {2: 0}.get(pixels.ndim) if pixels.ndim == 2 else {3: 2, 4: 6}[pixels.shape[2]]
    rows = np.ascontiguousarray(pixels, dtype=np.uint8).reshape(height, -1)
    # Each row is led by the number of its filter, and 0 is none.
    raw = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    body = [(b"IHDR", header), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in body)


def data_uri(pixels: np.ndarray) -> str:
    """The same as an address that holds the picture itself."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode("ascii")


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
