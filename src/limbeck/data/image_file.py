"""One image file: its header, and its pixels as bytes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from limbeck.data.damage import DamagedFileError
from limbeck.errors import DataError, LimbeckError

WIDE = ("I;16", "I;16L", "I;16B", "I;16N", "I")
"""Pillow's modes of gray pictures with more than 8 bits a pixel; older versions of Pillow open 16 bits as ``I``."""
GRAY = ("1", "L", "LA", "La", *WIDE)
_TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
_FRAMES = ("GIF", "PNG", "WEBP", "TIFF", "AVIF")
_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright


class Header(NamedTuple):
    """What a file says of its picture before it is decoded.

    Attributes:
        size: Height and width in pixels.
        mode: Pillow's name of what a pixel is: ``L``, ``RGB``, ``P``, ``I;16``, ...
        frames: It holds more than one frame or page.
        rotated: Its EXIF orientation is not upright.
        transparent: Some of it may be transparent.
        upper_bits: It has 16 bits for each of several channels, of which Pillow reads the upper 8.
    """

    size: tuple[int, int]
    mode: str
    frames: bool
    rotated: bool
    transparent: bool
    upper_bits: bool


def read_header(path: Path) -> Header:
    """What a picture's header says.

    Raises:
        DataError: If it is damaged, or its pixels are floating-point numbers.
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
            f"The picture {path} holds floating-point numbers (mode F), whose range nobody knows: save it with 8 or 16 "
            "bits a pixel, or give arrays: lb.ArrayDataset(images, labels)."
        )
    return header


def decode(path: Path, *, size: tuple[int, int], channels: int, bit_depth: int) -> np.ndarray:
    """A picture's pixels as bytes, ``[h, w]`` for one channel and ``[3, h, w]`` for three.

    Args:
        path: The file.
        size: Height and width in pixels, to which it is resized (bilinear) where it has others.
        channels: 1 for gray, 3 for red, green, blue.
        bit_depth: How many bits a pixel of more than 8 bits uses: the greatest value, ``2^bit_depth - 1``, becomes 255.

    Raises:
        DataError: If it cannot be decoded, or has a value of more bits.
    """
    pillow = open_pillow()
    try:
        with pillow.open(path) as file:
            picture = _as_bytes(path, file, bit_depth).convert("L" if channels == 1 else "RGB")
    except _errors(pillow) as error:
        raise damaged_error(path, error) from error
    height, width = size
    if picture.size != (width, height):
        picture = picture.resize((width, height), pillow.Resampling.BILINEAR)
    pixels = np.asarray(picture, dtype=np.uint8)
    return pixels if channels == 1 else pixels.transpose(2, 0, 1)


def value_range(path: Path) -> tuple[int, int]:
    """The least and the greatest value of a picture's pixels, as they are stored.

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
    """Refuse a file that is damaged in any place that Pillow can tell: every pixel is decoded, every checksum compared.

    Raises:
        DataError: If it cannot be decoded, or has a value of more than `bit_depth` bits.
    """
    pillow = open_pillow()
    try:
        with pillow.open(path) as file:
            # Decoding a PNG skips the checksums of its pixels; verify() compares them, and leaves the file unusable.
            if file.format == "PNG":
                file.verify()
        with pillow.open(path) as file:
            _as_bytes(path, file, bit_depth).load()
    except _errors(pillow) as error:
        raise damaged_error(path, error) from error


def damaged_error(path: Path, error: Exception) -> DamagedFileError:
    """The error of a picture that cannot be decoded."""
    reason = "empty" if path.is_file() and path.stat().st_size == 0 else str(error).split(str(path))[0].strip(" '\"")
    return DamagedFileError(path, reason)


@cache
def open_pillow() -> Any:
    """Pillow's module of images, with all of its file formats.

    Raises:
        LimbeckError: If it is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise LimbeckError("Reading pictures needs Pillow: pip install 'limbeck[image]'.") from error
    # Where two threads open a first picture, one of them may otherwise find only a part of the formats.
    Image.init()
    return Image


def _as_bytes(path: Path, file: Any, bit_depth: int) -> Any:
    """The picture with at most 8 bits for each channel."""
    if file.mode not in WIDE:
        # Pillow warns where the transparency of a palette is lost in one step.
        return file.convert("RGBA") if file.mode == "P" and "transparency" in file.info else file
    pixels = np.asarray(file)
    top = (1 << bit_depth) - 1
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > top:
        raise DataError(
            f"The picture {path} has values from {low} to {high}, and pixels were taken to have {bit_depth} bits (0 to "
            f"{top}): give bit_depth=16, if 16 bits are what they have. In a job: --set data.bit_depth=16."
        )
    return open_pillow().fromarray(((pixels.astype(np.int64) * 510 + top) // (2 * top)).astype(np.uint8))


def _has_frames(file: Any) -> bool:
    return file.format in _FRAMES and bool(getattr(file, "is_animated", False) or getattr(file, "n_frames", 1) > 1)


def _is_rotated(file: Any) -> bool:
    # TIFFs are turned by Pillow itself; getexif() of a PNG without EXIF would decode all of it.
    return file.format != "TIFF" and "exif" in file.info and file.getexif().get(_ORIENTATION, 1) not in (0, 1)


def _is_transparent(file: Any) -> bool:
    return file.mode in _TRANSPARENT or "transparency" in file.info


def _is_cut_to_upper_bits(file: Any) -> bool:
    first = file.tile[0][3] if file.tile else ""
    stored = first[0] if isinstance(first, tuple) and first else first
    return file.mode not in WIDE and ";16" in str(stored)


def _errors(pillow: Any) -> tuple[type[Exception], ...]:
    """What Pillow raises where a file is damaged."""
    return (OSError, SyntaxError, ValueError, EOFError, IndexError, pillow.DecompressionBombError)
