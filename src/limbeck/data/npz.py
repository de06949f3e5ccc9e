"""Reading .npz files; images in them become channels-first bytes."""

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

_LEAST_SIDE = 8  # rows of fewer whole numbers are no image: positions, tokens, counts


def as_images(
    arrays: Mapping[str, np.ndarray], *, channels_last: bool | None = None
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Arrays of inputs, with images of any number type as ``[n, c, h, w]``, or as bytes ``[n, h, w]`` of one channel.

    Whole numbers from 0 to 255 become bytes, and larger ones up to 65535 are scaled to bytes, all arrays alike; other
    whole numbers become float32, as float64 does. Arrays of other shapes are left as they are.

    Args:
        arrays: The inputs of each part, by the array's name.
        channels_last: Whether ``[n, h, w, c]`` is how they lie; None looks at the shapes.

    Returns:
        The arrays, and sentences about what was done to them.

    Raises:
        LimbeckError: If `channels_last` is given and there is no array of four dimensions.
    """
    converted, notes = dict(arrays), list[str]()
    whole = {name: array for name, array in converted.items() if array.ndim == 4}
    if channels_last is not None and not whole:
        raise LimbeckError("channels_last is for images [n, h, w, c], and no array of inputs has four dimensions.")
    for name, array in whole.items():
        last = has_channels_last(array.shape[1:]) if channels_last is None else channels_last
        if last:
            converted[name] = np.ascontiguousarray(array.transpose(0, 3, 1, 2))
            shape = "x".join(map(str, array.shape[1:]))
            notes.append(
                f"{name} holds images of {shape}, read as height, width, channels (data.channels_last=false if not)."
            )
    notes += _integers_as_bytes(converted)
    for name, array in converted.items():
        if array.ndim == 4 and array.shape[1] == 1 and array.dtype == np.uint8:
            converted[name] = array[:, 0]  # as `NormalizeImages` reads them
        if array.dtype.kind == "f":
            # numpy's own default is float64, a network's weights are float32.
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
    """Make images of whole numbers bytes, in place; a sentence about it."""
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
    """The training and the test part of an ``.npz`` file; the test part is None where the file has one part.

    Without names, the arrays are ``x_train, y_train, x_test, y_test``, or ``x, y``; labels may be absent. A further
    array ``NAME_train`` (and ``NAME_test``) with one row for each example becomes ``extra["NAME"]``, and
    ``class_names`` names the classes. Labels may be texts (numpy's ``U`` or ``S``, not objects). Other usual names of
    these arrays are understood: ``X_train``, ``train_images``, ``valid_labels``.

    Args:
        path: The file.
        inputs: The name of one array of inputs; then there is no test part.
        labels: The name of its labels.

    Raises:
        DataError: If the file is missing, empty, damaged, no ``.npz``, holds Python objects, or lacks an array.
    """
    arrays = read_arrays(path)
    if inputs is None:
        arrays, _ = number_labels(str(path), standardize_names(arrays)[0])
    return split_arrays(Path(path), arrays, inputs=inputs, labels=labels)


def split_arrays(
    path: Path, arrays: dict[str, np.ndarray], *, inputs: str | None = None, labels: str | None = None
) -> tuple[ArrayDataset, ArrayDataset | None]:
    """As `read_npz`, from the arrays of the file `path` by name."""
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
    raise DataError(f"{path} holds the arrays {_listed(arrays)}; expected {_EXPECTED}.")


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Every array of an ``.npz`` file by name; nothing in the file is ever run.

    Raises:
        DataError: If the file is missing, empty, damaged, no ``.npz``, or holds Python objects.
    """
    path = Path(path)
    check_file(path)
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is no .npz file, or only the beginning of one; expected {_EXPECTED} from numpy.savez.")
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
                f"{path}: array {name!r} holds Python objects, which only code in the file could make: save it as "
                f"numbers, or as texts with {name}.astype(str)."
            ) from error
        raise DataError(f"{path}: array {name!r} is damaged ({error}).") from error
    except MemoryError as error:
        raise DataError(f"{path}: array {name!r} does not fit into memory.") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError, NotImplementedError, TypeError) as error:
        raise DataError(f"{path}: array {name!r} is damaged ({error}).") from error
    return arrays


def unread_arrays(path: Path, arrays: dict[str, np.ndarray]) -> list[str]:
    """A sentence about arrays that no part of a data set is made of; none where all are read."""
    if "x_train" in arrays:
        parts = [part for part in ("_train", "_val", "_test") if f"x{part}" in arrays]
        read = {f"{kind}{part}" for kind in "xy" for part in parts}
        for part in {*parts} - {"_val"}:
            read |= {f"{name}{part}" for name in _extra(arrays, read, part, len(np.atleast_1d(arrays[f"x{part}"])))}
    else:
        read = {"x", "y"}
    unread = [name for name in arrays if name not in read and name != "class_names"]
    named = ", ".join(unread[:8]) + (", ..." if len(unread) > 8 else "")
    return [f"{path.name}: the arrays {named} are not read"] if unread else []


def _check_sizes(path: Path) -> None:
    """Refuse arrays that claim more than the file holds, or that memory does not; only their headers are read.

    Raises:
        DataError: Naming the array and its size.
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
                        f"{path}: array {member.filename.removesuffix('.npy')!r} is damaged: it claims "
                        f"{min(claimed, 10**18):.3g} bytes or more, and has {member.file_size:,}."
                    )
                if total > room:
                    raise DataError(
                        f"{path} holds {total / 1e9:,.1f} GB of arrays; this machine has {room / 1e9:,.1f}."
                    )
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError):
        return  # whoever reads the arrays says which of them is damaged


def _read_declared_size(opened: Any) -> int:
    """How many bytes an array's header says that it has; 0 where it cannot be read, which is said when it is."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        reader = readers.get(np.lib.format.read_magic(opened))
        shape, _, kind = reader(opened) if reader is not None else ((0,), False, np.dtype(np.uint8))
    except (ValueError, TypeError):
        return 0
    # Objects are written as a pickle of any length; they are refused, with a sentence of their own.
    return 0 if kind.hasobject else int(math.prod(shape)) * int(kind.itemsize)


def _memory() -> int:
    """Bytes of this machine's memory; all there could be where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return sys.maxsize


def check_file(path: Path) -> None:
    """Refuse what is no file with content.

    Raises:
        DataError: If `path` is missing (naming the nearest file beside it), a folder, or empty.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder; give a file.")
    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir() if p.is_file()] if path.parent.is_dir() else []
        near = nearest(path.name, beside)
        raise DataError(f"There is no file {path}." + (f" Did you mean {near!r}?" if near else ""))
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty.")


def _examples(path: Path, arrays: dict[str, np.ndarray], inputs: str, labels: str | None, *, part: str) -> ArrayDataset:
    if labels is not None and labels not in arrays and part == "_test" and "y_train" in arrays:
        raise DataError(f"{path} has y_train and no y_test; it holds {_listed(arrays)}.")
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
        raise DataError(f"{path} has no array {name!r}.{suggestion} It holds {_listed(arrays)}.")


def _listed(arrays: dict[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in list(arrays.items())[:12]) or "none"
