"""Sentences about parts of a data set that do not fit together: classes, scales, shapes, examples that are in both."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.data.arrays import ArrayDataset
from limbeck.data.dataset import Dataset, Subset
from limbeck.data.image_folder import ImageFolder
from limbeck.data.name_matching import find_similar_names
from limbeck.data.summary import DataSummary
from limbeck.data.texts import TextDataset
from limbeck.errors import DataError

_SAMPLE = 2000  # rows of each part that a scale is measured on
_FAR = 10  # times the training part's standard deviation: no sample is that far from it by chance
_FEW = 20  # rows: of fewer, means say little
_MOST_ROWS, _MOST_BYTES = 200_000, 1 << 29  # of a part, above which nobody looks for examples that are in two parts
_DIFFERENT = 0.9  # of the training examples
_TAIL = 4096  # bytes at a file's end that tell two pictures of one length apart, mostly


def class_warnings(summary: DataSummary) -> Iterator[str]:
    """What is likely wrong with the classes: written alike, without an example, or as many as there are examples."""
    if same := find_similar_names(summary.class_names or ()):
        listed = ", ".join(same[:4])
        yield f"Classes that are written alike are told apart: {listed}. If they are one, write them alike."
    train = next((part for part in summary.parts if part.name == "train" and any(part.classes)), None)
    if train is None:
        return
    names = summary.class_names or tuple(map(str, range(len(train.classes))))
    lacking = [number for number, count in enumerate(train.classes) if count == 0]
    for part in summary.parts:
        if strange := [number for number in lacking if part.classes and part.classes[number]]:
            listed = ", ".join(f"{names[number]} ({part.classes[number]:,})" for number in strange[:8])
            yield f"No training example has these classes, which {part.name} examples have: {listed}."
    if lacking and summary.class_names is None:
        low = next(number for number, count in enumerate(train.classes) if count)
        high = len(names) - 1
        yield (
            f"Labels go from {low} to {high}, and {len(lacking):,} of the {len(names):,} classes from 0 have no "
            f"training example. If they are counted from 1, subtract 1; if {high} stands for no label, make it -100."
        )
    taught = len(names) - len(lacking)
    if taught >= _FEW and 2 * taught > sum(train.classes):
        yield (
            f"There are {taught:,} classes in {sum(train.classes):,} training examples, fewer than two of each. If the "
            "target is a quantity or an identifier, it is no class."
        )


def check_shapes(parts: Mapping[str, Dataset]) -> list[str]:
    """A sentence for each part whose inputs have another height or width than the training part's.

    Raises:
        DataError: If one has other features or channels, or other types: bytes in one and fractions in the other.
    """
    inputs_by_part = {name: dict(_inputs(part)) for name, part in parts.items()}
    messages = []
    for name, inputs in inputs_by_part.items():
        for key in set(inputs) & set(inputs_by_part["train"]):
            ours, theirs = inputs_by_part["train"][key], inputs[key]
            if ours.is_floating_point() != theirs.is_floating_point() and ours.ndim > 2:
                raise DataError(
                    f"The {name} inputs are {_kind(theirs)} and the training inputs {_kind(ours)}: they are on other "
                    "scales. Keep both as the same type."
                )
            if ours.shape[1:] == theirs.shape[1:]:
                continue
            sentence = f"The {name} inputs have the shape {list(theirs.shape[1:])}, the training inputs "
            sentence += f"{list(ours.shape[1:])}"
            columns = ours.ndim == 2 and ours.is_floating_point()
            if columns or ours.ndim != theirs.ndim or (ours.ndim == 4 and ours.shape[1] != theirs.shape[1]):
                raise DataError(f"{sentence}: one model cannot read both. Give all parts alike.")
            messages.append(f"{sentence}: is that meant?")
    return messages


def scale_warnings(parts: Mapping[str, Dataset]) -> Iterator[str]:
    """Parts whose inputs are on another scale than the training part's: 0 to 255 in one, 0 to 1 in the other."""
    inputs_by_part = {name: dict(_inputs(part)) for name, part in parts.items()}
    for name, inputs in inputs_by_part.items():
        for key in set(inputs) & set(inputs_by_part["train"]) if name != "train" else ():
            if min(len(inputs[key]), len(inputs_by_part["train"][key])) < _FEW or inputs[key].is_complex():
                continue
            (mean, std), (other, spread) = _moments(inputs_by_part["train"][key]), _moments(inputs[key])
            if std > 0 and (abs(other - mean) > _FAR * std or spread > _FAR * std or spread < std / _FAR):
                yield (
                    f"The {name} inputs are on another scale than the training inputs: {other:.3g} ± {spread:.2g} "
                    f"(mean and standard deviation), and {mean:.3g} ± {std:.2g}."
                )


def find_overlap(parts: Mapping[str, Dataset]) -> Iterator[tuple[str, int, int]]:
    """Of each part besides the training part: its name, how many of its examples are training examples, and its size.

    Arrays are compared by their bytes, texts as they are, pictures by their files. Parts that are too large to look at
    at once are left out, and so are those of a set whose training examples are often equal.
    """
    for name, part in parts.items():
        if name == "train":
            continue
        if _paths(parts["train"]) and _paths(part):
            count = _same_files(_paths(parts["train"]), _paths(part))
        else:
            keys = list(_keys(parts["train"]))
            ours = set(keys)
            # Where rows of the training part are alike themselves, those of other parts are by chance.
            count = sum(key in ours for key in _keys(part)) if len(ours) > _DIFFERENT * len(keys) else 0
        if count:
            yield name, count, len(part)


def _inputs(part: Dataset) -> Iterator[tuple[Any, Tensor]]:
    """The arrays of a part, under their names; of a subset, those of the whole, as a shape is."""
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
    """What tells the examples of a part apart; nothing where it is too large, or of another kind."""
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
    """How many of their files are ours, byte by byte; only of files of one length and one end all bytes are read."""
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
