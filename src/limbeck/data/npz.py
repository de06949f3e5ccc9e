"""Reads .npz files as datasets."""

from __future__ import annotations

import math
import os
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from limbeck.data.arrays import ArrayDataset
from limbeck.data.dataset import Dataset
from limbeck.data.files import check_file
from limbeck.data.npz_arrays import as_images, number_labels, standardize_names
from limbeck.data.options import DataOptions
from limbeck.data.preprocess import fit_normalization
from limbeck.data.splits import DataSplits, hold_out
from limbeck.data.targets import VECTORS, read_target_arrays
from limbeck.errors import DataError, nearest, unknown_name_error

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


def load_npz(name: str, options: DataOptions) -> DataSplits:
    """Load the parts of an ``.npz`` file, with images as bytes.

    Raises:
        DataError: See `read_npz`.
        LimbeckError: If `channels_last` is set but no array has images, or there is no array with the groups.
    """
    path = Path(name)
    arrays, renamed = standardize_names(read_arrays(path))
    arrays, task, masked = read_target_arrays(str(path), arrays, options.task)
    vectors = task.name in VECTORS
    if vectors:
        names, matched = options.class_names or tuple(map(str, arrays.pop("class_names", ()))), list[str]()
    else:
        names = ()
        arrays, matched = number_labels(str(path), arrays, options.class_names)
    inputs: dict[str, np.ndarray] = {key: arrays[key] for key in ("x", "x_train", "x_val", "x_test") if key in arrays}
    images, converted = as_images(inputs, channels_last=options.channels_last)
    whole = {**arrays, **images}
    train_part, test_part = split_arrays(path, whole, vectors=vectors)
    train, test, note = hold_out(train_part, test_part)
    development = None
    if "x_val" in whole:
        development = split_arrays(path, whole, inputs="x_val", labels="y_val", vectors=vectors)[0]
    notes = (*renamed, *matched, *masked, *converted, *_unread_arrays(path, arrays))
    _check_groups(name, test, options.groups)
    return DataSplits(
        name, train, test, fit_normalization(train, scale=1 / 255), train.class_names,
        note=". ".join(filter(None, (note, *(sentence.rstrip(".") for sentence in notes)))),
        groups=options.groups, development=development, held_out=test_part is None, task=task.name,
        task_reason=task.why, target_names=names,
    )  # fmt: skip


def _check_groups(name: str, test: Dataset, groups: str | None) -> None:
    """Check that the groups of an ``.npz`` file exist and have one value per test example."""
    if groups is None:
        return
    extra = test.take(torch.tensor([0])).extra
    if groups not in extra:
        raise unknown_name_error(
            f"groups in {name}", groups, extra, then="groups=NAME requires an array NAME_test with one value per row."
        )
    if isinstance(extra[groups], torch.Tensor) and extra[groups].ndim != 1:
        raise DataError(
            f"groups={groups}: {groups}_test of {name} has {list(extra[groups].shape[1:])} per row, not one value."
        )


def split_arrays(
    path: Path,
    arrays: dict[str, np.ndarray],
    *,
    inputs: str | None = None,
    labels: str | None = None,
    vectors: bool = False,
) -> tuple[ArrayDataset, ArrayDataset | None]:
    """Same as `read_npz`, for arrays that were read from the file `path`; `vectors` are targets instead of labels."""
    if inputs is not None:
        required = [inputs] if labels is None else [inputs, labels]
        for name in required:
            _check_named(path, name, arrays)
        return _examples(path, arrays, inputs, labels, part="", vectors=vectors), None
    if "x_train" in arrays:
        train = _examples(path, arrays, "x_train", "y_train", part="_train", vectors=vectors)
        if "x_test" not in arrays:
            return train, None
        return train, _examples(path, arrays, "x_test", "y_test", part="_test", vectors=vectors)
    if "x" in arrays:
        return _examples(path, arrays, "x", "y", part="", vectors=vectors), None
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


def _unread_arrays(path: Path, arrays: dict[str, np.ndarray]) -> list[str]:
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


def _examples(
    path: Path, arrays: dict[str, np.ndarray], inputs: str, labels: str | None, *, part: str, vectors: bool = False
) -> ArrayDataset:
    if labels is not None and labels not in arrays and part == "_test" and "y_train" in arrays:
        raise DataError(f"{path} has y_train but no y_test; it contains {_listed(arrays)}.")
    label_array = arrays.get(labels) if labels is not None else None
    names = arrays.get("class_names")
    extra = _extra(arrays, {inputs, labels}, part, len(np.atleast_1d(arrays[inputs]))) if part else {}
    if vectors and label_array is not None:
        extra["targets"], label_array = label_array, None
    try:
        return ArrayDataset(
            arrays[inputs],
            label_array,
            extra=extra or None,
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
