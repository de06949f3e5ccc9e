"""How are the columns of a table file read as numbers and as texts?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from limbeck.errors import DataError, LimbeckError
from limbeck.sources.encoding import CategoryColumn, TableEncoding
from limbeck.sources.npz import check_file


def load_table(path: Path, encoding: TableEncoding | None) -> Any:
    """The table in a CSV or Parquet file, as an Arrow table; with `encoding`, its names are read as texts."""
    try:
        import pyarrow as pa
        from pyarrow import csv, parquet
    except ImportError as error:
        raise LimbeckError("Reading tables needs pyarrow: pip install 'limbeck[table]'.") from error
    check_file(path)
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".parquet"):
        raise DataError(f"{path} is none of .csv, .tsv and .parquet.")
    try:
        if suffix == ".parquet":
            # Not read_table: it would take a folder's name, year=2020, for a column.
            table = parquet.ParquetFile(path).read()
        else:
            convert = csv.ConvertOptions(strings_can_be_null=True, column_types=_text_columns(encoding, pa))
            parse = csv.ParseOptions(delimiter="\t" if suffix == ".tsv" else ",")
            table = csv.read_csv(path, parse_options=parse, convert_options=convert)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as a table: {str(error).splitlines()[0]}.") from error
    if len(set(table.column_names)) != len(table.column_names):
        double = next(name for name in table.column_names if table.column_names.count(name) > 1)
        raise DataError(f"{path} has two columns named {double!r}.")
    if table.num_rows == 0:
        raise DataError(f"{path} has a header and no rows.")
    return table


def _text_columns(encoding: TableEncoding | None, pa: Any) -> dict[str, Any]:
    # In a short test table, names such as 01 would otherwise be taken for numbers.
    if encoding is None:
        return {}
    named = {c.name: c.values for c in encoding.columns if isinstance(c, CategoryColumn)}
    if not all(is_whole(name) for name in encoding.class_names):
        named[encoding.target] = encoding.class_names
    return {name: pa.string() for name, values in named.items() if not set(values) <= {"true", "false"}}


def kind_of(path: Path, table: Any, name: str) -> str:
    """What a column holds: ``"number"``, ``"name"`` (texts, true/false, dictionaries) or ``"empty"``."""
    from pyarrow import types

    kind = table.schema.field(name).type
    value = kind.value_type if types.is_dictionary(kind) else kind
    if types.is_null(value):
        return "empty"
    if types.is_integer(value) or types.is_floating(value) or types.is_decimal(value):
        return "number" if value is kind else "name"
    if types.is_boolean(value) or types.is_string(value) or types.is_large_string(value):
        return "name"
    raise DataError(f"{path}: column {name!r} holds {kind}; give numbers, texts or true/false, or ignore=[{name!r}].")


def numbers(path: Path, table: Any, name: str) -> np.ndarray:
    """A column as float64, NaN where it is missing."""
    values = with_nan(table[name])
    if (wrong := np.isinf(values)).any():
        raise DataError(f"{path}: column {name!r} holds infinity in {wrong.sum()} rows, first in row {wrong.argmax()}.")
    return values


def with_nan(column: Any) -> np.ndarray:
    """Arrow numbers as float64, NaN where they are null."""
    import pyarrow as pa

    return column.cast(pa.float64(), safe=False).to_numpy().astype(np.float64)


def texts(column: Any) -> Any:
    """An Arrow column as Arrow texts; true and false become those words."""
    import pyarrow as pa

    return column.cast(pa.string())


def is_whole(text: str) -> bool:
    """Whether a class name is a whole number."""
    return text.removeprefix("-").isdecimal()
