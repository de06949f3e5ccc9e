"""How the columns of a table become numbers for networks and trees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from limbeck.errors import LimbeckError


@dataclass(frozen=True)
class NumberColumn:
    """A column of numbers: standardized for a network, as it is for a tree.

    Attributes:
        name: The column.
        mean: Over the rows of the training part that have a value; a missing value becomes it.
        std: Likewise, the population's; 1 for a constant column.
        missing: Whether the training part had missing values, so that a second feature tells them (1) from others (0).
    """

    name: str
    mean: float
    std: float
    missing: bool

    @property
    def features(self) -> tuple[str, ...]:
        """The features that the column becomes."""
        return (self.name, f"{self.name} missing") if self.missing else (self.name,)

    def encode(self, values: Float[np.ndarray, " rows"]) -> Float32[np.ndarray, "rows features"]:
        """Standardized values, and the indicator if there is one; NaN is a missing value."""
        absent = np.isnan(values)
        scaled = np.where(absent, 0.0, (values - self.mean) / self.std)
        return np.stack([scaled, absent] if self.missing else [scaled], 1).astype(np.float32)


@dataclass(frozen=True)
class CategoryColumn:
    """A column of names: one feature for each for a network, their numbers for a tree.

    Attributes:
        name: The column.
        values: The names that the training part has, sorted; any other, and a missing one, is "other".
    """

    name: str
    values: tuple[str, ...]

    @property
    def features(self) -> tuple[str, ...]:
        """The features that the column becomes."""
        return (*(f"{self.name}={value}" for value in self.values), f"{self.name} other")

    def encode(self, codes: Float[np.ndarray, " rows"]) -> Float32[np.ndarray, "rows features"]:
        """One 1 in each row, at the name's place; NaN is "other", the last."""
        index = np.where(np.isnan(codes), len(self.values), codes).astype(np.int64)
        return np.eye(len(self.values) + 1, dtype=np.float32)[index]


@dataclass(frozen=True)
class TableEncoding:
    """How a table was turned into numbers, so that another table is turned into the same ones.

    Attributes:
        target: The column of the classes.
        class_names: The classes, by number.
        columns: The other columns, in the order of the training table: also the order of the raw matrix.
        missing: What stood for a missing value in the training table, besides the usual words.
        separator: What stood between the columns of the training file; None if nothing was said.
        charset: How the training file wrote characters; likewise.
    """

    target: str
    class_names: tuple[str, ...]
    columns: tuple[NumberColumn | CategoryColumn, ...]
    missing: tuple[str, ...] = ()
    separator: str | None = None
    charset: str | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """The name of each feature that a network reads."""
        return tuple(feature for column in self.columns for feature in column.features)

    def encode(self, raw: Float[np.ndarray, "rows columns"]) -> Float32[np.ndarray, "rows features"]:
        """The features that a network reads, from the raw matrix that a tree reads."""
        parts = [column.encode(raw[:, i]) for i, column in enumerate(self.columns)]
        return np.concatenate(parts, axis=1)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        columns = [{**asdict(column), "kind": _KINDS[type(column)]} for column in self.columns]
        columns = [{k: list(v) if isinstance(v, tuple) else v for k, v in column.items()} for column in columns]
        values = {"target": self.target, "class_names": list(self.class_names), "columns": columns}
        more = {"missing": list(self.missing), "separator": self.separator, "charset": self.charset}
        return {**values, **{name: value for name, value in more.items() if value}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TableEncoding:
        """What `to_dict` was called on.

        Raises:
            LimbeckError: If an entry is missing or unknown.
        """
        try:
            columns = tuple(_column(entry) for entry in values["columns"])
            missing = tuple(values.get("missing", ()))
            layout = (values.get("separator"), values.get("charset"))
            return cls(values["target"], tuple(values["class_names"]), columns, missing, *layout)
        except (KeyError, TypeError) as error:
            raise LimbeckError(f"This is no table encoding: {error}.") from error


_KINDS: dict[type, str] = {NumberColumn: "number", CategoryColumn: "category"}


def _column(entry: Mapping[str, Any]) -> NumberColumn | CategoryColumn:
    kind = {name: column_type for column_type, name in _KINDS.items()}[entry["kind"]]
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in entry.items() if k != "kind"})
