"""Reads .npz files; images become bytes with the channels first."""

from __future__ import annotations

import math
import os
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.data.arrays import ArrayDataset
from limbeck.data.npz_labels import number_labels, standardize_names
from limbeck.errors import DataError, LimbeckError, nearest

_CHANNELS = (1, 3, 4)

_MOST_CHANNELS = 16

_LEAST_SIDE = 8  # smaller arrays of whole numbers are not images, but positions, tokens or counts


def as_images(
    arrays: Mapping[str, np.ndarray], *, channels_last: bool | None = None
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Convert images to ``[n, c, h, w]``, or to bytes ``[n, h, w]`` for one channel.

    Whole numbers from 0 to 255 become bytes. Larger ones up to 65535 are scaled to bytes, with the same factor for all
    arrays. Other whole numbers and float64 become float32. Arrays of other shapes are not changed.

    Args:
        arrays: The inputs of each part, by the array's name.
        channels_last: Whether the layout is ``[n, h, w, c]``; None infers it from the shapes.

    Returns:
        The arrays, and notes about conversions.

    Raises:
        LimbeckError: If `channels_last` is set but no array has four dimensions.
    """
    converted, notes = dict(arrays), list[str]()
    whole = {name: array for name, array in converted.items() if array.ndim == 4}
    if channels_last is not None and not whole:
        raise LimbeckError("channels_last applies to images [n, h, w, c], but no input array has four dimensions.")
    for name, array in whole.items():
        last = has_channels_last(array.shape[1:]) if channels_last is None else channels_last
        if last:
            converted[name] = np.ascontiguousarray(array.transpose(0, 3, 1, 2))
            shape = "x".join(map(str, array.shape[1:]))
            notes.append(
                f"{name} has images of {shape}, read as height, width, channels (data.channels_last=false if not)."
            )
    notes += _integers_as_bytes(converted)
    for name, array in converted.items():
        if array.ndim == 4 and array.shape[1] == 1 and array.dtype == np.uint8:
            converted[name] = array[:, 0]  # the layout that `NormalizeImages` expects
        if array.dtype.kind == "f":
            # numpy's default is float64, but model weights are float32.
            converted[name] = array.astype(np.float32)
    return converted, tuple(notes)


def has_channels_last(shape: tuple[int, ...]) -> bool:
    """Whether the shape of one image is likely height, width, channels, and not channels, height, width.

    Example:
        >>> has_channels_last((32, 32, 3)), has_channels_last((3, 32, 32)), has_channels_last((13, 64, 64))
        (True, False, False)
    """
    if len(shape) != 3:
        return False
    first, middle, last = shape
    if first == middle != last:
        return last <= _MOST_CHANNELS
    if middle == last != first:
        return False
    return last in _CHANNELS and first not in _CHANNELS


def _integers_as_bytes(arrays: dict[str, np.ndarray]) -> Iterator[str]:
    """Convert images of whole numbers to bytes, in place; yields a note if anything changed."""
    images = {name: array for name, array in arrays.items() if _is_image(array) and array.dtype.kind in "iu"}
    if not any(array.dtype != np.uint8 for array in images.values()):
        return
    low = min(int(array.min()) for array in images.values() if array.size)
    high = max(int(array.max()) for array in images.values() if array.size)
    names, types = " and ".join(images), ", ".join(dict.fromkeys(str(array.dtype) for array in images.values()))
    if low < 0 or high > 65535:
        arrays.update({name: array.astype(np.float32) for name, array in images.items()})
        yield f"The images in {names} are {types} from {low} to {high}, read as float32."
        return
    bits = max(high.bit_length(), 8)
    top = (1 << bits) - 1
    if bits == 8:
        arrays.update({name: array.astype(np.uint8) for name, array in images.items()})
        yield f"The images in {names} are {types} from {low} to {high}, read as bytes."
        return
    for name, array in images.items():
        arrays[name] = ((array.astype(np.int64) * 510 + top) // (2 * top)).astype(np.uint8)
    yield f"The images in {names} are {types} up to {high}: their {bits} bits are scaled to 8."


def _is_image(array: np.ndarray) -> bool:
    return array.ndim == 4 or (array.ndim == 3 and min(array.shape[1:]) >= _LEAST_SIDE)


_EXPECTED = "x_train, y_train, x_test, y_test, or x, y"


def read_npz(
    path: str | Path, *, inputs: str | None = None, labels: str | None = None
) -> tuple[ArrayDataset, ArrayDataset | None]:
    """Read the training and test part of an ``.npz`` file; the test part is None if the file has only one part.

    By default the arrays are ``x_train, y_train, x_test, y_test``, or ``x, y``; labels are optional. Another array
    ``NAME_train`` (and ``NAME_test``) with one row per example becomes ``extra["NAME"]``, and ``class_names`` has the
    class names. Labels may be strings (numpy's ``U`` or ``S``, not objects). Similar array names work too:
    ``X_train``, ``train_images``, ``valid_labels``.

    Args:
        path: The file.
        inputs: Name of a single input array; then there is no test part.
        labels: Name of its labels.

    Raises:
        DataError: If the file is missing, empty, damaged, not an ``.npz`` file, contains Python objects, or lacks an
            array.
    """
    arrays = read_arrays(path)
    if inputs is None:
        arrays, _ = number_labels(str(path), standardize_names(arrays)[0])
    return split_arrays(Path(path), arrays, inputs=inputs, labels=labels)


def split_arrays(
    path: Path, arrays: dict[str, np.ndarray], *, inputs: str | None = None, labels: str | None = None
) -> tuple[ArrayDataset, ArrayDataset | None]:
    """Same as `read_npz`, for arrays that were read from the file `path`."""
    if inputs is not None:
        required = [inputs] if labels is None else [inputs, labels]
        for name in required:
            _check_named(path, name, arrays)
        return _examples(path, arrays, inputs, labels, part=""), None
    if "x_train" in arrays:
        test = _examples(path, arrays, "x_test", "y_test", part="_test") if "x_test" in arrays else None
        return _examples(path, arrays, "x_train", "y_train", part="_train"), test
    if "x" in arrays:
        return _examples(path, arrays, "x", "y", part=""), None
    raise DataError(f"{path} contains the arrays {_listed(arrays)}; expected {_EXPECTED}.")


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Read all arrays of an ``.npz`` file by name; no code in the file is executed.

    Raises:
        DataError: If the file is missing, empty, damaged, not an ``.npz`` file, or contains Python objects.
    """
    path = Path(path)
    check_file(path)
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is not an .npz file, or is truncated; expected {_EXPECTED} from numpy.savez.")
    name = ""
    _check_sizes(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {}
            for name in file.files:
                arrays[name] = file[name]
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"{path}: array {name!r} contains Python objects, which are not loaded because they can run code. Save "
                f"it as numbers, or as strings with {name}.astype(str)."
            ) from error
        raise DataError(f"{path}: array {name!r} is damaged ({error}).") from error
    except MemoryError as error:
        raise DataError(f"{path}: array {name!r} does not fit into memory.") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError, NotImplementedError, TypeError) as error:
        raise DataError(f"{path}: array {name!r} is damaged ({error}).") from error
    return arrays


def unread_arrays(path: Path, arrays: dict[str, np.ndarray]) -> list[str]:
    """A note about arrays that are not used; an empty list if all are."""
    if "x_train" in arrays:
        parts = [part for part in ("_train", "_val", "_test") if f"x{part}" in arrays]
        read = {f"{kind}{part}" for kind in "xy" for part in parts}
        for part in {*parts} - {"_val"}:
            read |= {f"{name}{part}" for name in _extra(arrays, read, part, len(np.atleast_1d(arrays[f"x{part}"])))}
    else:
        read = {"x", "y"}
    unread = [name for name in arrays if name not in read and name != "class_names"]
    named = ", ".join(unread[:8]) + (", ..." if len(unread) > 8 else "")
    return [f"{path.name}: the arrays {named} are not used"] if unread else []


def _check_sizes(path: Path) -> None:
    """Check headers for arrays that are larger than the file or the memory.

    Raises:
        DataError: With the array and its size.
    """
    room, total = _memory(), 0
    try:
        with zipfile.ZipFile(path) as file:
            for member in file.infolist():
                total += member.file_size
                with file.open(member) as opened:
                    claimed = _read_declared_size(opened)
                if claimed > member.file_size:
                    raise DataError(
                        f"{path}: array {member.filename.removesuffix('.npy')!r} is damaged: its header "
                        f"declares at least {min(claimed, 10**18):.3g} bytes, but it has {member.file_size:,}."
                    )
                if total > room:
                    raise DataError(
                        f"{path} has {total / 1e9:,.1f} GB of arrays; this machine has {room / 1e9:,.1f} GB of memory."
                    )
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError):
        return  # read_arrays reports which array is damaged


def _read_declared_size(opened: Any) -> int:
    """The number of bytes declared in an array's header; 0 if it cannot be read (read_arrays reports that)."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        reader = readers.get(np.lib.format.read_magic(opened))
        shape, _, kind = reader(opened) if reader is not None else ((0,), False, np.dtype(np.uint8))
    except (ValueError, TypeError):
        return 0
    # Objects are pickles of any length; read_arrays raises for them.
    return 0 if kind.hasobject else int(math.prod(shape)) * int(kind.itemsize)


def _memory() -> int:
    """Bytes of memory of this machine; sys.maxsize if unknown."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return sys.maxsize


def check_file(path: Path) -> None:
    """Check that a path is a file with content.

    Raises:
        DataError: If `path` is missing (the message suggests the nearest name), a folder, or empty.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder; a file is needed.")
    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir() if p.is_file()] if path.parent.is_dir() else []
        near = nearest(path.name, beside)
        raise DataError(f"There is no file {path}." + (f" Did you mean {near!r}?" if near else ""))
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty.")


def _examples(path: Path, arrays: dict[str, np.ndarray], inputs: str, labels: str | None, *, part: str) -> ArrayDataset:
    if labels is not None and labels not in arrays and part == "_test" and "y_train" in arrays:
        raise DataError(f"{path} has y_train but no y_test; it contains {_listed(arrays)}.")
    label_array = arrays.get(labels) if labels is not None else None
    names = arrays.get("class_names")
    try:
        return ArrayDataset(
            arrays[inputs],
            label_array,
            extra=_extra(arrays, {inputs, labels}, part, len(np.atleast_1d(arrays[inputs]))) if part else None,
            class_names=None if names is None or label_array is None else [str(name) for name in names],
        )
    except DataError as error:
        raise DataError(f"{path}, {inputs} and {labels}: {error}") from error


def _extra(arrays: dict[str, np.ndarray], used: set[Any], part: str, size: int) -> dict[str, np.ndarray]:
    mine = {name.removesuffix(part): a for name, a in arrays.items() if name.endswith(part) and name not in used}
    return {name: array for name, array in mine.items() if array.ndim and len(array) == size}


def _check_named(path: Path, name: str, arrays: dict[str, np.ndarray]) -> None:
    if name not in arrays:
        near = nearest(name, arrays)
        suggestion = f" Did you mean {near!r}?" if near else ""
        raise DataError(f"{path} has no array {name!r}.{suggestion} It contains {_listed(arrays)}.")


def _listed(arrays: dict[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in list(arrays.items())[:12]) or "none"
