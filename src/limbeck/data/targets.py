"""Targets of regression, several labels and segmentation: the task of the data, and their values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from limbeck.batch import IGNORED
from limbeck.data.arrow import RawTable, check_columns
from limbeck.data.column_types import MISSING, PLACEHOLDERS, missing_note, read_column
from limbeck.data.dataset import Dataset
from limbeck.data.name_matching import is_number, quoted
from limbeck.data.table_encoding import TargetColumns
from limbeck.errors import DataError

VECTORS = ("regression", "multi_label")
"""Tasks whose targets are a column ``targets``; those of the others are labels."""
_FEW_NUMBERS = 20
_NEARLY_ALL = 0.9
_FEW_CELLS = 4  # of a column that a message quotes
_WITH_UNIT = re.compile(r"[$€£]\s*[-+]?\d[\d.,]*|[-+]?\d[\d.,]*(\s*[$€£%]|\s+[^\W\d]{1,6})")
_WITH_COMMAS = re.compile(r"[-+]?\d{1,3}(,\d{3})+(\.\d*)?")
_LABEL_ARRAYS = ("y_train", "y", "y_val", "y_test")
_NO_LABEL_BYTE = 255  # of masks, as in PASCAL VOC


class InferredTask(NamedTuple):
    """The task that targets are for, and why.

    Attributes:
        name: The task.
        why: What was seen in the data, for the summary; empty if the user named the task.
        other: Another task that these targets fit; empty if there is none.
    """

    name: str
    why: str = ""
    other: str = ""

    @property
    def text(self) -> str:
        """The task in the summary of the data, with what to type if it was inferred wrongly."""
        if not self.why:
            return self.name
        hint = f" (if that is wrong, type --task {self.other})" if self.other else ""
        return f"{self.name}, because {self.why}{hint}"


def read_targets(
    targets: TargetColumns, raw: RawTable, missing: Sequence[str] = (), notes: list[str] | None = None
) -> np.ndarray:
    """Read the targets ``[rows, outputs]``: float32 with NaN for unknown, or int64 with -100 for unknown.

    Args:
        targets: The target columns.
        raw: The table.
        missing: Texts that mean an unknown value, in addition to the usual ones.
        notes: Notes about texts that were read as unknown are appended.

    Raises:
        DataError: If a value is not possible, or a label is not known.
    """
    check_columns(raw.path, list(targets.columns), raw.names)
    if targets.delimiter is not None:
        return _label_matrix(raw, targets.columns[0], targets.delimiter, targets.names)
    numbers = np.stack([_numbers(raw, column, missing, notes) for column in targets.columns], 1)
    if targets.task == "regression":
        return numbers.astype(np.float32)
    unknown = np.isnan(numbers)
    wrong = ~unknown & (numbers != 0) & (numbers != 1)
    if wrong.any():
        row, column = (int(index) for index in np.argwhere(wrong)[0])
        raise DataError(
            f"{raw.path}: the label {targets.columns[column]!r} is {numbers[row, column]:g} in row {row}; several "
            "labels are columns of 0 and 1. For numbers, type --task regression."
        )
    return np.where(unknown, IGNORED, numbers).astype(np.int64)


@dataclass(frozen=True)
class TargetRequest:
    """The user's options for the targets of a file.

    Attributes:
        task: The task; None infers it.
        columns: The target columns of a table.
        delimiter: What separates several labels in one column.
    """

    task: str | None = None
    columns: tuple[str, ...] = ()
    delimiter: str | None = None

    def find_columns(self, raw: RawTable, missing: Sequence[str]) -> tuple[TargetColumns | None, InferredTask]:
        """Find the task of a table; the columns are None for classification.

        Raises:
            DataError: If the task does not fit the columns.
        """
        check_columns(raw.path, list(self.columns), raw.names)
        task = InferredTask(self.task) if self.task is not None else self._infer(raw, missing)
        if task.name == "classification" and len(self.columns) == 1:
            return None, task
        if task.name == "classification":
            raise DataError(
                f"{raw.path}: classification has one target, not {len(self.columns)} ({', '.join(self.columns)}). Type "
                "--task regression, or --task multi_label for columns of 0 and 1, or name one column."
            )
        if task.name not in VECTORS:
            raise DataError(
                f"{raw.path}: {task.name} needs images, and this is a table. Type --task classification, --task "
                "multi_label or --task regression."
            )
        if task.name == "multi_label" and len(self.columns) == 1:
            if self.delimiter is None and read_column(raw, self.columns[0], missing=missing).numbers is not None:
                raise DataError(
                    f"{raw.path}: the target {self.columns[0]!r} has numbers; several labels are several columns of 0 "
                    "and 1 (data.target=[a,b]), or a column of texts with data.delimiter."
                )
            delimiter = self.delimiter or "|"
            names = _label_names(raw, self.columns[0], delimiter)
            return TargetColumns(task.name, self.columns, names, delimiter), task
        return TargetColumns(task.name, self.columns, self.columns), task

    def _infer(self, raw: RawTable, missing: Sequence[str]) -> InferredTask:
        if self.delimiter is not None:
            return InferredTask("multi_label", f"delimiter={self.delimiter!r} separates several labels")
        if len(self.columns) > 1:
            values = np.stack([_numbers(raw, column, missing) for column in self.columns])
            if np.isin(values[~np.isnan(values)], (0, 1)).all():
                return InferredTask("multi_label", f"{len(self.columns)} target columns have only 0 and 1")
            return InferredTask("regression", f"{len(self.columns)} target columns have numbers")
        column = read_column(raw, self.columns[0], missing=missing)
        return InferredTask("classification") if column.numbers is None else infer_from_numbers(column.numbers)


def infer_from_numbers(values: np.ndarray) -> InferredTask:
    """Infer regression for fractions, and for many different whole numbers that are not class indices.

    Example:
        >>> infer_from_numbers(np.array([0.5, 1.5, 2.0])).name
        'regression'
        >>> infer_from_numbers(np.arange(200) % 5).name
        'classification'
    """
    known = values[~np.isnan(values)] if values.dtype.kind == "f" else values.astype(np.float64)
    known = known[known != IGNORED]
    fractions = known != np.round(known)
    if fractions.any() and not _are_mostly_classes(known[~fractions], len(known)):
        return InferredTask("regression", f"targets are numbers such as {known[fractions][0]:g}")
    different = np.unique(known)
    gaps = len(different) > 0 and different[-1] - different[0] >= len(different)
    if gaps and len(different) > max(_FEW_NUMBERS, len(known) / 5):
        return InferredTask(
            "regression", f"{len(different):,} of {len(known):,} targets are different numbers with gaps between them"
        )
    return InferredTask("classification")


def _are_mostly_classes(whole: np.ndarray, count: int) -> bool:
    """Whether nearly all targets are class indices, so that the rest are mistakes in labels, not numbers to predict."""
    classes = np.unique(whole)
    few = 2 <= len(classes) <= _FEW_NUMBERS
    return few and len(whole) > _NEARLY_ALL * count and bool(classes[0] == 0 and classes[-1] == len(classes) - 1)


def read_target_arrays(
    path: str, arrays: Mapping[str, np.ndarray], task: str | None
) -> tuple[dict[str, np.ndarray], InferredTask, list[str]]:
    """Convert the label arrays of an ``.npz`` file for their task; those of classification are not changed.

    Args:
        path: The file, for messages.
        arrays: Its arrays, under standard names.
        task: The task; None infers it from the array of the training part.

    Returns:
        The arrays, the task, and notes.

    Raises:
        DataError: If the task does not fit the arrays.
    """
    labels = {name: arrays[name] for name in _LABEL_ARRAYS if name in arrays}
    if not labels:
        if task not in (None, "classification"):
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in list(arrays.items())[:12])
            raise DataError(
                f"{path} has no targets for the task {task}. It contains {shapes or 'no arrays'}; targets are read "
                "from y_train and y_test, or y (or labels, targets, masks, also with train and test in the name)."
            )
        return dict(arrays), InferredTask(task or "classification"), []
    first = next(iter(labels.values()))
    inputs = arrays.get("x_train", arrays.get("x"))
    chosen = InferredTask(task) if task is not None else infer_from_array(first, inputs)
    converted, notes = dict(arrays), ([] if task is not None else note_floats(first))
    for name, array in labels.items():
        if chosen.name in VECTORS:
            converted[name] = _vectors(path, name, array, chosen.name)
        elif chosen.name == "segmentation":
            converted[name] = _masks(path, name, array, notes)
            _check_mask_size(path, name, array, arrays.get(name.replace("y", "x", 1)))
    return converted, chosen, notes


def as_vectors(array: np.ndarray, task: str) -> np.ndarray:
    """Convert targets to ``[n, outputs]``: float32 for regression, int64 for several labels."""
    whole = array if array.ndim == 2 else array.reshape(len(array), -1)
    if task == "regression":
        return whole.astype(np.float32)
    if whole.dtype.kind == "f":
        whole = np.where(np.isnan(whole), IGNORED, whole)
    return whole.astype(np.int64) if np.array_equal(whole, np.round(whole)) else whole.astype(np.float32)


def note_floats(labels: Any) -> list[str]:
    """A note about floats that are read as classes because all are whole numbers; empty for other labels.

    Example:
        >>> len(note_floats(np.array([0.0, 2.0]))), len(note_floats(np.array([0, 2])))
        (1, 0)
    """
    array = np.asarray(labels)
    column = array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)
    if array.dtype.kind != "f" or not column or infer_from_numbers(array.reshape(-1)).name != "classification":
        return []
    return [
        f"The labels are whole numbers of the type {array.dtype}, and are read as classes; for numbers to predict, "
        "type --task regression."
    ]


def infer_from_dataset(train: Dataset) -> InferredTask:
    """Infer the task of a dataset: that of its column ``targets``, or else that of its labels."""
    if train.targets is not None:
        fractions = train.targets.is_floating_point() and not _is_binary(train.targets.cpu().numpy())
        return InferredTask("regression" if fractions else "multi_label")
    labels = train.labels
    if labels is None or labels.ndim != 3:
        return InferredTask("classification")
    inputs = train.take(torch.tensor([0])).inputs
    return infer_from_array(labels[:1].cpu().numpy(), inputs.numpy() if isinstance(inputs, torch.Tensor) else None)


def _is_binary(values: np.ndarray) -> bool:
    return bool(np.isin(values[~np.isnan(values)], (0, 1)).all()) and values.ndim == 2 and values.shape[1] > 1


def infer_from_array(labels: np.ndarray, inputs: Any) -> InferredTask:
    """Infer the task of an array of labels, beside the inputs of the same examples."""
    shape = tuple(inputs.shape[1:]) if hasattr(inputs, "shape") else ()
    if labels.dtype.kind not in "biuf" or not labels.size:
        return InferredTask("classification")
    if labels.ndim == 1 or (labels.ndim == 2 and labels.shape[1] == 1):
        return infer_from_numbers(labels.reshape(-1)) if labels.dtype.kind == "f" else InferredTask("classification")
    if labels.ndim == 2:
        known = labels[~np.isnan(labels)] if labels.dtype.kind == "f" else labels[labels != IGNORED]
        if not np.isin(known, (0, 1)).all():
            if labels.dtype.kind == "f":
                return InferredTask("regression", f"targets are {labels.shape[1]} numbers a row")
            return InferredTask("classification")
        if (labels.sum(1) == 1).all():  # one-hot: the reader of classes says what to do
            return InferredTask("classification")
        return InferredTask("multi_label", f"targets are {labels.shape[1]} columns of 0 and 1")
    pixels = labels.shape[1:]
    # Masks of another size than the images are masks too: the reader says which sizes they have.
    if labels.ndim == 3 and labels.dtype.kind in "biu" and len(shape) in (2, 3):
        return InferredTask("segmentation", f"there is a label for each of {pixels[0]}x{pixels[1]} pixels")
    return InferredTask("classification")


def _vectors(path: str, name: str, array: np.ndarray, task: str) -> np.ndarray:
    if array.dtype.kind not in "biuf" or array.ndim not in (1, 2):
        raise DataError(
            f"{path}: {name} has the shape {list(array.shape)} and the type {array.dtype}; the task {task} needs "
            "numbers [examples] or [examples, outputs]."
        )
    return as_vectors(array, task)


def _masks(path: str, name: str, array: np.ndarray, notes: list[str]) -> np.ndarray:
    if array.dtype.kind not in "biu" or array.ndim != 3:
        raise DataError(
            f"{path}: {name} has the shape {list(array.shape)} and the type {array.dtype}; segmentation needs class "
            "indices [images, height, width]."
        )
    if array.dtype == np.uint8 and (array == _NO_LABEL_BYTE).any():
        notes.append(f"In {name}, the value {_NO_LABEL_BYTE} means no label.")
        return np.where(array == _NO_LABEL_BYTE, IGNORED, array.astype(np.int64))
    return array.astype(np.int64)


def _check_mask_size(path: str, name: str, masks: np.ndarray, images: np.ndarray | None) -> None:
    """Check that masks have the height and width of the images."""
    if images is None or images.ndim not in (3, 4) or masks.shape[1:] in (images.shape[1:3], images.shape[-2:]):
        return
    channels_last = images.ndim == 3 or images.shape[-1] <= min(images.shape[1:3])
    size = images.shape[1:3] if channels_last else images.shape[-2:]
    raise DataError(
        f"{path}: masks are {masks.shape[1]}x{masks.shape[2]} ({name}), images are {size[0]}x{size[1]}. Resize one of "
        "them, masks without interpolation: each pixel of an image needs one class."
    )


def _numbers(raw: RawTable, column: str, missing: Sequence[str], notes: list[str] | None = None) -> np.ndarray:
    values = read_column(raw, column, missing=missing)
    if values.kind == "empty":
        return np.full(raw.table.num_rows, np.nan)
    if values.numbers is not None:
        # A feature may lose a strange text; a target that silently loses one is a row that is not learned.
        if strange := {text for text in values.missing_counts if _is_strange(text, missing)}:
            raise _no_numbers_error(raw, column, strange)
        if notes is not None and values.missing_counts:
            notes.append(f"{raw.path.name}: {missing_note(raw, values)} in the target {column!r}.")
        return values.numbers
    texts = set(values.names.unique().drop_null().to_pylist())
    if {text.lower() for text in texts} <= {"true", "false"}:
        flags = {"true": 1.0, "false": 0.0, None: np.nan}
        return np.array([flags[text if text is None else text.lower()] for text in values.names.to_pylist()])
    raise _no_numbers_error(raw, column, {text for text in texts if _is_strange(text, missing)} or texts)


def _is_strange(text: str, missing: Sequence[str]) -> bool:
    """Whether a text is neither a number nor one of those that mean an unknown value."""
    return not is_number(text) and text.lower() not in PLACEHOLDERS and text not in {*MISSING, *missing}


def _no_numbers_error(raw: RawTable, column: str, strange: set[str]) -> DataError:
    """The error of a target with texts, with the first of them, their rows, and how to write them."""
    rows = [(row, text) for row, text in enumerate(raw.table[column].cast("string").to_pylist()) if text in strange]
    first = {text: row for row, text in reversed(rows)}
    quoted_cells = [f"{quoted(text)} in row {row}" for text, row in sorted(first.items(), key=lambda one: one[1])]
    more = f" and {len(first) - _FEW_CELLS} other texts" if len(first) > _FEW_CELLS else ""
    text = rows[0][1]
    if all(is_number(one) for one in strange):
        then = "They are numbers that are stored as texts: store the column as numbers."
    elif _WITH_COMMAS.fullmatch(text):
        then = f"Write the number without commas: {text.replace(',', '')}."
    elif _WITH_UNIT.fullmatch(text):
        then = f"Remove the unit, and write only the number, such as 1234.5, instead of {text}."
    else:
        known = json.dumps(list(first)[::-1][:_FEW_CELLS], ensure_ascii=False)
        then = f"If they mean that the value is unknown, type --set 'data.missing={known}'."
    return DataError(
        f"{raw.path}: the target column {column!r} has texts in {len(rows):,} of {raw.table.num_rows:,} rows, and this "
        f"task needs numbers: {', '.join(quoted_cells[:_FEW_CELLS])}{more}. {then} For classes, type --task "
        "classification with one target column."
    )


def _split_labels(raw: RawTable, column: str, delimiter: str) -> list[list[str] | None]:
    texts = raw.table[column].cast("string").to_pylist()
    return [
        None if text is None else [part.strip() for part in text.split(delimiter) if part.strip()] for text in texts
    ]


def _label_names(raw: RawTable, column: str, delimiter: str) -> tuple[str, ...]:
    names = {label for labels in _split_labels(raw, column, delimiter) for label in labels or ()}
    if len(names) < 2:
        raise DataError(
            f"{raw.path}: the column {column!r} has {len(names)} different labels when split at {delimiter!r}; several "
            "labels need at least two. Set data.delimiter to what separates them."
        )
    return tuple(sorted(names))


def _label_matrix(raw: RawTable, column: str, delimiter: str, names: Sequence[str]) -> np.ndarray:
    place = {name: number for number, name in enumerate(names)}
    rows = _split_labels(raw, column, delimiter)
    matrix = np.zeros((len(rows), len(names)), dtype=np.int64)
    for row, labels in enumerate(rows):
        if labels is None:
            matrix[row] = IGNORED
        for label in labels or ():
            if label not in place:
                raise DataError(
                    f"{raw.path}: row {row} has the label {label!r}, which no training row has. Labels are separated "
                    f"by {delimiter!r}."
                )
            matrix[row, place[label]] = 1
    return matrix
