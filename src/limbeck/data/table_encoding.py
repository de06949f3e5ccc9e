"""Encoding of table columns as numbers for networks and trees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from limbeck.errors import LimbeckError


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
class TableEncoding:
    """Encoding of a table, which can be applied to other tables.

    Attributes:
        target: The column with the classes.
        class_names: The class names.
        columns: The feature columns, in the order of the training table and of the raw matrix.
        missing: Values that mean missing in the training table, in addition to the usual strings.
        separator: Column separator of the training file; None if it was not set.
        charset: Character encoding of the training file; None if it was not set.
    """

    target: str
    class_names: tuple[str, ...]
    columns: tuple[NumberColumn | CategoryColumn, ...]
    missing: tuple[str, ...] = ()
    separator: str | None = None
    charset: str | None = None

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
        more = {"missing": list(self.missing), "separator": self.separator, "charset": self.charset}
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
            return cls(values["target"], tuple(values["class_names"]), columns, missing, *layout)
        except (KeyError, TypeError) as error:
            raise LimbeckError(f"Not a valid table encoding: {error}.") from error


_KINDS: dict[type, str] = {NumberColumn: "number", CategoryColumn: "category"}


def _column(entry: Mapping[str, Any]) -> NumberColumn | CategoryColumn:
    kind = {name: column_type for column_type, name in _KINDS.items()}[entry["kind"]]
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in entry.items() if k != "kind"})
