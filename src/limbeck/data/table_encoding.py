"""Encodes table columns as numbers: `TableEncoding`, and other tables like the training part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from limbeck.data.arrow import RawTable, as_float64
from limbeck.data.column_types import PLACEHOLDERS, ColumnValues, read_column
from limbeck.data.name_matching import match_names, matching_note, quoted
from limbeck.errors import DataError, LimbeckError


@dataclass(frozen=True)
class NumberColumn:
    """Encoding of a numeric column: standardized for networks, unchanged for trees.

    Attributes:
        name: The column.
        mean: Mean of the training rows that have a value; missing values are replaced by it.
        std: Population standard deviation of the same rows; 1 for a constant column.
        missing: Whether the training part has missing values; then a second feature is 1 for missing values, else 0.
    """

    name: str
    mean: float
    std: float
    missing: bool

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features of this column."""
        return (self.name, f"{self.name} missing") if self.missing else (self.name,)

    def encode(self, values: Float[np.ndarray, " rows"]) -> Float32[np.ndarray, "rows features"]:
        """Standardize values, and add the missing indicator if there is one; NaN means missing."""
        absent = np.isnan(values)
        scaled = np.where(absent, 0.0, (values - self.mean) / self.std)
        return np.stack([scaled, absent] if self.missing else [scaled], 1).astype(np.float32)


@dataclass(frozen=True)
class CategoryColumn:
    """Encoding of a category: one feature per name for networks, the index of the name for trees.

    Attributes:
        name: The column.
        values: The names in the training part, sorted; all other and missing names are "other".
    """

    name: str
    values: tuple[str, ...]

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features of this column."""
        return (*(f"{self.name}={value}" for value in self.values), f"{self.name} other")

    def encode(self, codes: Float[np.ndarray, " rows"]) -> Float32[np.ndarray, "rows features"]:
        """One-hot encode the indices of names; NaN is "other", the last feature."""
        index = np.where(np.isnan(codes), len(self.values), codes).astype(np.int64)
        return np.eye(len(self.values) + 1, dtype=np.float32)[index]


@dataclass(frozen=True)
class TargetColumns:
    """The target columns of a table for regression or several labels.

    Attributes:
        task: ``regression`` or ``multi_label``.
        columns: The columns.
        names: The names of the outputs: those of the columns, or the labels in a column of texts.
        delimiter: What separates the labels in a column of texts; None for columns of numbers.
    """

    task: str
    columns: tuple[str, ...]
    names: tuple[str, ...]
    delimiter: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "task": self.task, "columns": list(self.columns), "names": list(self.names), "delimiter": self.delimiter,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TargetColumns:
        """Read the result of `to_dict`."""
        return cls(values["task"], tuple(values["columns"]), tuple(values["names"]), values.get("delimiter"))


@dataclass(frozen=True)
class TableEncoding:
    """Encoding of a table, which can be applied to other tables.

    Attributes:
        target: The column with the classes.
        class_names: The class names.
        columns: The feature columns, in the order of the training table and of the raw matrix.
        missing: Values that mean missing in the training table, in addition to the usual strings.
        separator: Column separator of the training file; None if it was not set.
        charset: Character encoding of the training file; None if it was not set.
        targets: The target columns of regression or several labels; None for classification.
    """

    target: str
    class_names: tuple[str, ...]
    columns: tuple[NumberColumn | CategoryColumn, ...]
    missing: tuple[str, ...] = ()
    separator: str | None = None
    charset: str | None = None
    targets: TargetColumns | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """The names of all features of a network."""
        return tuple(feature for column in self.columns for feature in column.features)

    def encode(self, raw: Float[np.ndarray, "rows columns"]) -> Float32[np.ndarray, "rows features"]:
        """Encode the raw matrix (the inputs of a tree) as the features of a network."""
        parts = [column.encode(raw[:, i]) for i, column in enumerate(self.columns)]
        return np.concatenate(parts, axis=1)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values, for JSON."""
        columns = [{**asdict(column), "kind": _KINDS[type(column)]} for column in self.columns]
        columns = [{k: list(v) if isinstance(v, tuple) else v for k, v in column.items()} for column in columns]
        values = {"target": self.target, "class_names": list(self.class_names), "columns": columns}
        more: dict[str, Any] = {"missing": list(self.missing), "separator": self.separator, "charset": self.charset}
        more["targets"] = None if self.targets is None else self.targets.to_dict()
        return {**values, **{name: value for name, value in more.items() if value}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TableEncoding:
        """Create an encoding from the result of `to_dict`.

        Raises:
            LimbeckError: If an entry is missing or unknown.
        """
        try:
            columns = tuple(_column(entry) for entry in values["columns"])
            missing = tuple(values.get("missing", ()))
            layout = (values.get("separator"), values.get("charset"))
            targets = TargetColumns.from_dict(values["targets"]) if values.get("targets") else None
            return cls(values["target"], tuple(values["class_names"]), columns, missing, *layout, targets)
        except (KeyError, TypeError) as error:
            raise LimbeckError(f"Not a valid table encoding: {error}.") from error


_KINDS: dict[type, str] = {NumberColumn: "number", CategoryColumn: "category"}


def _column(entry: Mapping[str, Any]) -> NumberColumn | CategoryColumn:
    kind = {name: column_type for column_type, name in _KINDS.items()}[entry["kind"]]
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in entry.items() if k != "kind"})


_ENOUGH = 10  # rows with a value; with fewer, all values may be unknown to the training part
_FAR = 10  # training standard deviations; no mean differs by that much by chance
_SHARE = 0.1  # of the rows with a value; if more are unknown, a warning is issued


def find_codes(names: Any, values: Sequence[str]) -> np.ndarray:
    """The index of each Arrow string in `values`, as float64; NaN if it is not there."""
    import pyarrow as pa
    from pyarrow import compute

    return as_float64(compute.index_in(names, value_set=pa.array(list(values), pa.string())))


def encode_known(
    raw: RawTable, column: NumberColumn | CategoryColumn, missing: Sequence[str], notes: list[str], warnings: list[str]
) -> np.ndarray:
    """Convert a column to numbers: its values, or the index of each name; NaN for missing or unknown.

    Args:
        raw: The table.
        column: The encoding of the training part.
        missing: Strings that mean a missing value.
        notes: Notes about matched values are appended.
        warnings: Warnings about likely mistakes are appended.

    Raises:
        DataError: If the column contained numbers and now contains strings, or all of many values are unknown.
    """
    values = read_column(raw, column.name, missing=missing, as_names=isinstance(column, CategoryColumn))
    if values.kind == "empty":
        if raw.table.num_rows >= _ENOUGH:
            warnings.append(
                f"{raw.path.name}: column {column.name!r} has no value in any row, but has values in the training part."
            )
        return np.full(raw.table.num_rows, np.nan)
    if isinstance(column, NumberColumn):
        return _encode_numbers(raw, column, values, notes, warnings)
    return _encode_names(raw, column, values, notes, warnings)


def _encode_numbers(
    raw: RawTable, column: NumberColumn, values: ColumnValues, notes: list[str], warnings: list[str]
) -> np.ndarray:
    if values.numbers is not None:
        warnings += [values.warning] if values.warning else []
        if values.missing_counts:
            listed = ", ".join(f"{quoted(text)} ({count:,})" for text, count in list(values.missing_counts.items())[:4])
            notes.append(f"{raw.path.name}: column {column.name!r}: {listed} read as missing.")
        warnings += _check_scale(raw, column, values.numbers)
        return values.numbers
    present = [value for value in values.names.unique().to_pylist() if value is not None]
    if all(value.lower() in PLACEHOLDERS for value in present):
        warnings.append(f"{raw.path.name}: column {column.name!r} has no number in any row, only {quoted(present[0])}.")
        return np.full(raw.table.num_rows, np.nan)
    binary = (
        abs(column.std**2 - column.mean * (1 - column.mean)) < 1e-9
    )  # the standard deviation of zeros and ones follows from their mean
    matched = match_names(present, ("0", "1")) if binary else {}
    if len(matched) < len(present):
        raise DataError(
            f"{raw.path}: column {column.name!r} has numbers in the training part, but here it has "
            f"{quoted(present[0])}. If that means a missing value, set missing=[{quoted(present[0])}]."
        )
    notes.append(matching_note(f"{raw.path.name}: in column {column.name!r}", matched))
    return find_codes(_rename_values(values.names, matched), ("0", "1"))


def _check_scale(raw: RawTable, column: NumberColumn, numbers: np.ndarray) -> list[str]:
    """A warning if the mean of a column is far from the training mean, usually because of other units."""
    present = numbers[~np.isnan(numbers)]
    mean = float(present.mean()) if len(present) else column.mean
    if len(present) < _ENOUGH or abs(mean - column.mean) <= _FAR * column.std:
        return []
    return [
        f"{raw.path.name}: column {column.name!r} has the mean {mean:.4g} here and {column.mean:.4g} in the training "
        f"part (standard deviation {column.std:.2g}). Is it in other units?"
    ]


def _encode_names(
    raw: RawTable, column: CategoryColumn, values: ColumnValues, notes: list[str], warnings: list[str]
) -> np.ndarray:
    present = [value for value in values.names.unique().to_pylist() if value is not None]
    matched = match_names(present, column.values)
    moved = {name: expected for name, expected in matched.items() if name != expected}
    if moved:
        notes.append(matching_note(f"{raw.path.name}: in column {column.name!r}", moved))
    codes = find_codes(_rename_values(values.names, matched), column.values)
    rows = int((~values.missing).sum())
    lost = rows - int((~np.isnan(codes)).sum())
    if lost:
        strange = ", ".join(quoted(value) for value in present if value not in matched)[:80]
        expected = ", ".join(map(quoted, column.values[:4]))
        message = (
            f"column {column.name!r} has {strange} in {lost:,} of {rows:,} rows, which is not in the training part"
        )
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
    """Replace Arrow strings by the names that they were matched to."""
    import pyarrow as pa
    from pyarrow import compute

    index = compute.index_in(names, value_set=pa.array(list(matched), pa.string()))
    return pa.array(list(matched.values()), pa.string()).take(index) if matched else names
