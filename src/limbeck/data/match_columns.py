"""Columns of another table, read as those of the training table were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from limbeck.batch import IGNORED
from limbeck.data.arrow import RawTable, as_float64
from limbeck.data.column_types import PLACEHOLDERS, ColumnValues, quoted, read_column
from limbeck.data.name_matching import match_names
from limbeck.data.table_encoding import CategoryColumn, NumberColumn
from limbeck.errors import DataError

_ENOUGH = 10  # rows with a value: of fewer, none need be known to the training part
_FAR = 10  # standard deviations of the training part's column: no mean is that far from its own by chance
_SHARE = 0.1  # of the rows with a value: above, that they are unknown is likely a mistake


def find_codes(names: Any, values: Sequence[str]) -> np.ndarray:
    """The place of each of Arrow's texts among `values`, as float64; NaN for none of them."""
    import pyarrow as pa
    from pyarrow import compute

    return as_float64(compute.index_in(names, value_set=pa.array(list(values), pa.string())))


def encode_known(
    raw: RawTable, column: NumberColumn | CategoryColumn, missing: Sequence[str], notes: list[str], warnings: list[str]
) -> np.ndarray:
    """A column as numbers: as it is, or the place of each name; NaN where it is missing or unknown.

    Args:
        raw: The table.
        column: How the training part was encoded.
        missing: What stands for a missing value.
        notes: Sentences about what was matched are added here.
        warnings: Sentences about what is likely wrong are added here.

    Raises:
        DataError: If it held numbers and now holds texts, or no value of many is known.
    """
    values = read_column(raw, column.name, missing=missing, as_names=isinstance(column, CategoryColumn))
    if values.kind == "empty":
        if raw.table.num_rows >= _ENOUGH:
            warnings.append(f"{raw.path.name}: column {column.name!r} has no value in any row; the training part has.")
        return np.full(raw.table.num_rows, np.nan)
    if isinstance(column, NumberColumn):
        return _encode_numbers(raw, column, values, notes, warnings)
    return _encode_names(raw, column, values, notes, warnings)


def match_labels(
    raw: RawTable, target: str, classes: list[str | None], names: Sequence[str]
) -> tuple[list[str | None], list[str]]:
    """The classes by the training part's names, where they are written otherwise; and a sentence that says so."""
    present = list(dict.fromkeys(label for label in classes if label is not None))
    matched = match_names(present, names)
    moved = {name: class_name for name, class_name in matched.items() if name != class_name}
    if not moved:
        return classes, []
    return [matched.get(label, label) if label is not None else None for label in classes], [
        _matching_note(raw, target, moved)
    ]


def encode_labels(raw: RawTable, target: str, classes: Sequence[str | None], names: Sequence[str]) -> np.ndarray:
    """The number of each row's class, -100 where it has none.

    Raises:
        DataError: If a class is none of `names`.
    """
    numbers = {name: number for number, name in enumerate(names)}
    for row, text in enumerate(classes):
        if text is not None and text not in numbers:
            expected = ", ".join(names[:12])
            raise DataError(
                f"{raw.path}: row {row} has the class {quoted(text)} in {target!r}, which is none of {expected}."
            )
    return np.array([IGNORED if text is None else numbers[text] for text in classes], dtype=np.int64)


def _encode_numbers(
    raw: RawTable, column: NumberColumn, values: ColumnValues, notes: list[str], warnings: list[str]
) -> np.ndarray:
    if values.numbers is not None:
        warnings += [values.warning] if values.warning else []
        if values.missing_counts:
            listed = ", ".join(f"{quoted(text)} ({count:,})" for text, count in list(values.missing_counts.items())[:4])
            notes.append(f"{raw.path.name}: column {column.name!r}: {listed} taken for missing.")
        warnings += _check_scale(raw, column, values.numbers)
        return values.numbers
    present = [value for value in values.names.unique().to_pylist() if value is not None]
    if all(value.lower() in PLACEHOLDERS for value in present):
        warnings.append(
            f"{raw.path.name}: column {column.name!r} holds no number in any row, only {quoted(present[0])}."
        )
        return np.full(raw.table.num_rows, np.nan)
    binary = abs(column.std**2 - column.mean * (1 - column.mean)) < 1e-9  # as of zeros and ones alone
    matched = match_names(present, ("0", "1")) if binary else {}
    if len(matched) < len(present):
        raise DataError(
            f"{raw.path}: column {column.name!r} held numbers in the training part, here it holds "
            f"{quoted(present[0])}. If that stands for a missing value, say missing=[{quoted(present[0])}]."
        )
    notes.append(_matching_note(raw, column.name, matched))
    return find_codes(_rename_values(values.names, matched), ("0", "1"))


def _check_scale(raw: RawTable, column: NumberColumn, numbers: np.ndarray) -> list[str]:
    """A sentence if the mean of a column is where no training row's value is likely to be: other units, mostly."""
    present = numbers[~np.isnan(numbers)]
    mean = float(present.mean()) if len(present) else column.mean
    if len(present) < _ENOUGH or abs(mean - column.mean) <= _FAR * column.std:
        return []
    return [
        f"{raw.path.name}: column {column.name!r} has the mean {mean:.4g} here and {column.mean:.4g} in the training "
        f"part (standard deviation {column.std:.2g}): is it in other units?"
    ]


def _encode_names(
    raw: RawTable, column: CategoryColumn, values: ColumnValues, notes: list[str], warnings: list[str]
) -> np.ndarray:
    present = [value for value in values.names.unique().to_pylist() if value is not None]
    matched = match_names(present, column.values)
    moved = {name: expected for name, expected in matched.items() if name != expected}
    if moved:
        notes.append(_matching_note(raw, column.name, moved))
    codes = find_codes(_rename_values(values.names, matched), column.values)
    rows = int((~values.missing).sum())
    lost = rows - int((~np.isnan(codes)).sum())
    if lost:
        strange = ", ".join(quoted(value) for value in present if value not in matched)[:80]
        expected = ", ".join(map(quoted, column.values[:4]))
        message = f"column {column.name!r} holds {strange} in {lost:,} of {rows:,} rows, which the training part lacks"
        if lost == rows and rows >= _ENOUGH:
            raise DataError(
                f"{raw.path}: {message} (it has {expected}), so no row has a known value. Write the values the same "
                f"way in both files, or leave the column out with ignore=[{column.name!r}]."
            )
        (warnings if lost >= _SHARE * rows and rows >= _ENOUGH else notes).append(
            f"{raw.path.name}: {message}; they count as 'other'."
        )
    return codes


def _rename_values(names: Any, matched: dict[str, str]) -> Any:
    """Arrow texts with known names in the place of those that mean them."""
    import pyarrow as pa
    from pyarrow import compute

    index = compute.index_in(names, value_set=pa.array(list(matched), pa.string()))
    return pa.array(list(matched.values()), pa.string()).take(index) if matched else names


def _matching_note(raw: RawTable, name: str, moved: dict[str, str]) -> str:
    listed = ", ".join(f"{quoted(value)} as {quoted(target)}" for value, target in list(moved.items())[:4])
    more = f" and {len(moved) - 4} more" if len(moved) > 4 else ""
    return f"{raw.path.name}: in column {name!r}, {listed}{more} was read, as the training part writes it."
