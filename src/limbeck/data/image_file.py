"""Reads one image file: its header and its pixels; reports damaged files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from limbeck.data.dataset import Dataset
from limbeck.errors import DataError
from limbeck.optional_imports import import_optional

WIDE = ("I;16", "I;16L", "I;16B", "I;16N", "I")
"""Pillow's modes of gray images with more than 8 bits per pixel; old versions of Pillow open 16 bits as ``I``."""
GRAY = ("1", "L", "LA", "La", *WIDE)
_TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
_FRAMES = ("GIF", "PNG", "WEBP", "TIFF", "AVIF")
_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright


class Header(NamedTuple):
    """Properties of an image, known before it is decoded.

    Attributes:
        size: Height and width in pixels.
        mode: Pillow's pixel mode: ``L``, ``RGB``, ``P``, ``I;16``, ...
        frames: Whether it has more than one frame or page.
        rotated: Whether its EXIF orientation is not upright.
        transparent: Whether it may have transparent pixels.
        upper_bits: Whether it has several channels of 16 bits, of which Pillow reads the upper 8.
    """

    size: tuple[int, int]
    mode: str
    frames: bool
    rotated: bool
    transparent: bool
    upper_bits: bool


def read_header(path: Path) -> Header:
    """Read the header of an image file.

    Raises:
        DataError: If the file is damaged, or its pixels are floating-point numbers.
    """
    pillow = open_pillow()
    try:
        with pillow.open(path) as file:
            mode = str(file.mode)
            header = Header(
                (file.height, file.width), mode, _has_frames(file), _is_rotated(file), _is_transparent(file),
                _is_cut_to_upper_bits(file),
            )  # fmt: skip
    except _errors(pillow) as error:
        raise damaged_error(path, error) from error
    if mode == "F":
        raise DataError(
            f"The image {path} has floating-point pixels (mode F), whose range is unknown. Save it with 8 or 16 bits "
            "per pixel, or use arrays: lb.ArrayDataset(images, labels)."
        )
    return header


def decode(path: Path, *, size: tuple[int, int], channels: int, bit_depth: int) -> np.ndarray:
    """Decode an image to bytes, ``[h, w]`` for one channel and ``[3, h, w]`` for three.

    Args:
        path: The file.
        size: Height and width in pixels; images of other sizes are resized (bilinear).
        channels: 1 for gray, 3 for red, green, blue.
        bit_depth: Bits per pixel of images with more than 8: the value ``2^bit_depth - 1`` becomes 255.

    Raises:
        DataError: If it cannot be decoded, or has a value above ``2^bit_depth - 1``.
    """
    pillow = open_pillow()
    try:
        with pillow.open(path) as file:
            image = _as_bytes(path, file, bit_depth).convert("L" if channels == 1 else "RGB")
    except _errors(pillow) as error:
        raise damaged_error(path, error) from error
    height, width = size
    if image.size != (width, height):
        image = image.resize((width, height), pillow.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels if channels == 1 else pixels.transpose(2, 0, 1)


def value_range(path: Path) -> tuple[int, int]:
    """The smallest and largest stored pixel value of an image.

    Raises:
        DataError: If it cannot be decoded.
    """
    pillow = open_pillow()
    try:
        with pillow.open(path) as file:
            pixels = np.asarray(file)
    except _errors(pillow) as error:
        raise damaged_error(path, error) from error
    return int(pixels.min()), int(pixels.max())


def check_whole(path: Path, *, bit_depth: int) -> None:
    """Check a file for damage: decode every pixel and compare every checksum.

    Raises:
        DataError: If it cannot be decoded, or has a value of more than `bit_depth` bits.
    """
    pillow = open_pillow()
    try:
        with pillow.open(path) as file:
            # Decoding a PNG skips the checksums of its pixels; verify() compares them but makes the file unusable.
            if file.format == "PNG":
                file.verify()
        with pillow.open(path) as file:
            _as_bytes(path, file, bit_depth).load()
    except _errors(pillow) as error:
        raise damaged_error(path, error) from error


def damaged_error(path: Path, error: Exception) -> DamagedFileError:
    """Create the error for an image that cannot be decoded."""
    reason = "empty" if path.is_file() and path.stat().st_size == 0 else str(error).split(str(path))[0].strip(" '\"")
    return DamagedFileError(path, reason)


@cache
def open_pillow() -> Any:
    """Import Pillow's Image module with all file formats loaded.

    Raises:
        LimbeckError: If Pillow is not installed.
    """
    image_module = import_optional("PIL.Image", extra="image", purpose="Reading images")
    # Without init(), two threads that open their first image at once may see only some of the formats.
    image_module.init()
    return image_module


def _as_bytes(path: Path, file: Any, bit_depth: int) -> Any:
    """Reduce an image to at most 8 bits per channel."""
    if file.mode not in WIDE:
        # Via RGBA, because Pillow warns if the transparency of a palette is dropped in one step.
        return file.convert("RGBA") if file.mode == "P" and "transparency" in file.info else file
    pixels = np.asarray(file)
    top = (1 << bit_depth) - 1
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > top:
        raise DataError(
            f"The image {path} has values from {low} to {high}, but bit_depth={bit_depth} allows 0 to {top}. If pixels "
            "have 16 bits, set bit_depth=16. In a job: --set data.bit_depth=16."
        )
    return open_pillow().fromarray(((pixels.astype(np.int64) * 510 + top) // (2 * top)).astype(np.uint8))


def _has_frames(file: Any) -> bool:
    # Pillow defines the attribute only for these formats.
    return file.format in _FRAMES and bool(file.is_animated)


def _is_rotated(file: Any) -> bool:
    # Pillow rotates TIFFs itself; getexif() of a PNG without EXIF would decode the whole image.
    return file.format != "TIFF" and "exif" in file.info and file.getexif().get(_ORIENTATION, 1) not in (0, 1)


def _is_transparent(file: Any) -> bool:
    return file.mode in _TRANSPARENT or "transparency" in file.info


def _is_cut_to_upper_bits(file: Any) -> bool:
    first = file.tile[0][3] if file.tile else ""
    stored = first[0] if isinstance(first, tuple) and first else first
    return file.mode not in WIDE and ";16" in str(stored)


def _errors(pillow: Any) -> tuple[type[Exception], ...]:
    """The exceptions that Pillow raises for damaged files."""
    return (OSError, SyntaxError, ValueError, EOFError, IndexError, pillow.DecompressionBombError)


_NAMED = 5


class DamagedFileError(DataError):
    """An image file that cannot be decoded.

    Args:
        path: The file.
        reason: What is wrong with it.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"The image {path} cannot be decoded ({reason}); repair or remove it.")
        self.path = path
        self.reason = reason


def verify(parts: Iterable[Dataset], *, progress: Callable[[int, int], None] = lambda done, of: None) -> None:
    """Read every example once, in datasets that read files on access.

    Args:
        parts: The datasets.
        progress: Called with the number of examples read so far and the total.

    Raises:
        DataError: If some cannot be read. The message has their number and the first five.
    """
    file_parts = [part for part in parts if part.reads_files]
    total, done = sum(map(len, file_parts)), 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(done, total)

    failed = [error for part in file_parts for error in part.find_damaged(torch.arange(len(part)), progress=count)]
    raise_damaged(failed, total)


def raise_damaged(failed: Sequence[DataError], count: int) -> None:
    """Raise one error for all failed examples, out of `count`; do nothing if `failed` is empty.

    Raises:
        DataError: With the number of failures and the first five.
    """
    if len(failed) == 1:
        raise failed[0]
    if failed:
        named = ", ".join(_describe(error) for error in failed[:_NAMED])
        more = f", and {len(failed) - _NAMED:,} more" if len(failed) > _NAMED else ""
        raise DataError(f"{len(failed):,} of {count:,} images cannot be decoded: {named}{more}. Repair or remove them.")


def _describe(error: DataError) -> str:
    return f"{error.path} ({error.reason})" if isinstance(error, DamagedFileError) else str(error).rstrip(".")
