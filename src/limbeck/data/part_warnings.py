"""Warnings about parts of a dataset that do not fit together: classes, scales, shapes, shared examples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.batch import IGNORED
from limbeck.data.arrays import ArrayDataset
from limbeck.data.dataset import Dataset, Subset
from limbeck.data.image_folder import ImageFolder
from limbeck.data.name_matching import find_similar_names
from limbeck.data.splits import DataSummary
from limbeck.data.texts import TextDataset
from limbeck.errors import DataError

_SAMPLE = 2000  # rows of each part used to measure the scale
_FAR = 10  # training standard deviations; no sample mean differs by that much by chance
_FEW = 20  # rows; means of fewer are not reliable
_MOST_ROWS, _MOST_BYTES = 200_000, 1 << 29  # size of a part above which shared examples are not searched
_DIFFERENT = 0.9  # share of training examples that must be unique, to search for shared examples
_TAIL = 4096  # bytes at the end of a file, which usually differ between two images of the same length


def class_warnings(summary: DataSummary) -> Iterator[str]:
    """Yield warnings about classes: similar names, no training example, or almost as many classes as examples."""
    if same := find_similar_names(summary.class_names or ()):
        listed = ", ".join(same[:4])
        yield f"Some classes have similar names: {listed}. If they are the same class, use one name."
    train = next((part for part in summary.parts if part.name == "train" and any(part.classes)), None)
    if train is None:
        return
    names = summary.class_names or tuple(map(str, range(len(train.classes))))
    lacking = [number for number, count in enumerate(train.classes) if count == 0]
    for part in summary.parts:
        if strange := [number for number in lacking if part.classes and part.classes[number]]:
            listed = ", ".join(f"{names[number]} ({part.classes[number]:,})" for number in strange[:8])
            yield f"Classes of {part.name} examples that no training example has: {listed}."
    if lacking and summary.class_names is None:
        low = next(number for number, count in enumerate(train.classes) if count)
        high = len(names) - 1
        yield (
            f"Labels go from {low} to {high}, and {len(lacking):,} of the {len(names):,} classes from 0 have no "
            f"training example. If labels start at 1, subtract 1. If {high} means no label, use -100 instead."
        )
    taught = len(names) - len(lacking)
    if taught >= _FEW and 2 * taught > sum(train.classes):
        yield (
            f"There are {taught:,} classes in {sum(train.classes):,} training examples, fewer than two per class. Is "
            "the target a quantity or an identifier, not a class?"
        )


def label_warnings(parts: Mapping[str, Dataset]) -> Iterator[str]:
    """Yield a warning about a development part without labels or targets, if the training part has some."""
    part = parts.get("development")
    if part is not None and _is_unlabeled(part) and not _is_unlabeled(parts["train"]):
        yield (
            f"None of the {len(part):,} development examples has a label, so nothing can be chosen by them: no "
            "temperature, no student, and the teacher is not checked. Give them labels, or leave the part out, and a "
            "share of the training examples is held out."
        )


def _is_unlabeled(part: Dataset) -> bool:
    columns = [column for column in (part.labels, part.targets) if column is not None]
    return not any(
        bool(column.isfinite().any()) if column.is_floating_point() else bool((column != IGNORED).any())
        for column in columns
    )


def check_shapes(parts: Mapping[str, Dataset]) -> list[str]:
    """Return a warning for each part whose images differ in height or width from the training images.

    Raises:
        DataError: If the number of features or channels differs, or one part has integers and the other floats.
    """
    inputs_by_part = {name: dict(_inputs(part)) for name, part in parts.items()}
    messages = []
    for name, inputs in inputs_by_part.items():
        for key in set(inputs) & set(inputs_by_part["train"]):
            ours, theirs = inputs_by_part["train"][key], inputs[key]
            if ours.is_floating_point() != theirs.is_floating_point() and ours.ndim > 2:
                raise DataError(
                    f"The {name} inputs are {_kind(theirs)} and the training inputs {_kind(ours)}: their scales "
                    "differ. Use the same type for both."
                )
            if ours.shape[1:] == theirs.shape[1:]:
                continue
            sentence = f"The {name} inputs have the shape {list(theirs.shape[1:])}, the training inputs "
            sentence += f"{list(ours.shape[1:])}"
            columns = ours.ndim == 2 and ours.is_floating_point()
            if columns or ours.ndim != theirs.ndim or (ours.ndim == 4 and ours.shape[1] != theirs.shape[1]):
                raise DataError(f"{sentence}. All parts must have the same shape.")
            messages.append(f"{sentence}. Is that intended?")
    return messages


def scale_warnings(parts: Mapping[str, Dataset]) -> Iterator[str]:
    """Yield warnings about parts on another scale than the training part, such as 0 to 255 and 0 to 1."""
    inputs_by_part = {name: dict(_inputs(part)) for name, part in parts.items()}
    for name, inputs in inputs_by_part.items():
        for key in set(inputs) & set(inputs_by_part["train"]) if name != "train" else ():
            if min(len(inputs[key]), len(inputs_by_part["train"][key])) < _FEW or inputs[key].is_complex():
                continue
            (mean, std), (other, spread) = _moments(inputs_by_part["train"][key]), _moments(inputs[key])
            if std > 0 and (abs(other - mean) > _FAR * std or spread > _FAR * std or spread < std / _FAR):
                yield (
                    f"The {name} inputs are on another scale than the training inputs: {other:.3g} ± {spread:.2g} "
                    f"(mean and standard deviation) instead of {mean:.3g} ± {std:.2g}."
                )


def find_overlap(parts: Mapping[str, Dataset]) -> Iterator[tuple[str, int, int]]:
    """Yield (name, number of examples that are also training examples, size) for each part with shared examples.

    Arrays are compared by bytes, texts as strings, images by file content. Very large parts are skipped, and so are
    datasets with many duplicate training examples.
    """
    for name, part in parts.items():
        if name == "train":
            continue
        if _paths(parts["train"]) and _paths(part):
            count = _same_files(_paths(parts["train"]), _paths(part))
        else:
            keys = list(_keys(parts["train"]))
            ours = set(keys)
            # If the training part has many duplicates, duplicates in other parts are expected.
            count = sum(key in ours for key in _keys(part)) if len(ours) > _DIFFERENT * len(keys) else 0
        if count:
            yield name, count, len(part)


def _inputs(part: Dataset) -> Iterator[tuple[Any, Tensor]]:
    """Yield the input arrays of a part by name; of a subset, a sample of rows."""
    whole = part.whole if isinstance(part, Subset) else part
    if not isinstance(whole, ArrayDataset):
        return
    index = part.index if isinstance(part, Subset) else None
    arrays = whole.inputs if isinstance(whole.inputs, Mapping) else {"": whole.inputs}
    for key, tensor in arrays.items():
        if isinstance(tensor, Tensor):
            yield key, tensor if index is None else _some(tensor, index)


def _some(tensor: Tensor, index: Tensor) -> Tensor:
    return tensor[index[:: max(len(index) // _SAMPLE, 1)]]


def _moments(tensor: Tensor) -> tuple[float, float]:
    some = tensor[:: max(len(tensor) // _SAMPLE, 1)].double()
    return float(some.mean()), float(some.std(correction=0))


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _keys(part: Dataset) -> Iterator[Any]:
    """Yield a comparison key for each example; nothing if the part is too large or not supported."""
    whole, index = (part.whole, part.index.tolist()) if isinstance(part, Subset) else (part, range(len(part)))
    if isinstance(whole, TextDataset):
        pairs = whole.pairs or [""] * len(whole)
        yield from ((whole.texts[i], pairs[i]) for i in index)
    elif isinstance(whole, ArrayDataset) and isinstance(whole.inputs, Tensor) and len(part) <= _MOST_ROWS:
        flat = whole.inputs.detach().cpu().contiguous().flatten(1) if whole.inputs.ndim > 1 else whole.inputs[:, None]
        if flat.numel() * flat.element_size() <= _MOST_BYTES and flat.dtype != torch.bfloat16:
            rows: np.ndarray = flat.numpy()
            yield from (hash(rows[i].tobytes()) for i in index)


def _paths(part: Dataset) -> list[Path]:
    whole = part.whole if isinstance(part, Subset) else part
    if not isinstance(whole, ImageFolder):
        return []
    return [whole.paths[i] for i in part.index.tolist()] if isinstance(part, Subset) else whole.paths


def _same_files(ours: Sequence[Path], theirs: Sequence[Path]) -> int:
    """Count files with the same content in both lists; only files of the same length and end are read in full."""
    lengths: dict[int, list[Path]] = {}
    for path in ours:
        lengths.setdefault(path.stat().st_size, []).append(path)
    ends: dict[int, dict[bytes, list[Path]]] = {}
    count = 0
    for path in theirs:
        size = path.stat().st_size
        if size not in lengths:
            continue
        if size not in ends:
            ends[size] = {}
            for candidate in lengths[size]:
                ends[size].setdefault(_end(candidate), []).append(candidate)
        digest = hashlib.sha256(path.read_bytes()).digest() if (same := ends[size].get(_end(path), [])) else b""
        count += any(hashlib.sha256(candidate.read_bytes()).digest() == digest for candidate in same)
    return count


def _end(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(path.stat().st_size - _TAIL, 0))
        return hashlib.sha256(file.read()).digest()
