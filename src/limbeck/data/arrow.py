"""Reads table files into Arrow columns: CSV as stripped strings, Parquet with its own types."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from limbeck.data.files import check_file
from limbeck.data.name_matching import is_number
from limbeck.errors import DataError
from limbeck.optional_imports import import_optional

SUFFIXES = (".csv", ".tsv", ".parquet")
_BLOCK = 1 << 24  # bytes parsed at a time; one row, with all line breaks inside its quotes, must fit into a block
_NO_HEADER = " Its first row seems to contain values: add a header row with the column names."
_SEPARATORS = {";": "';'", "\t": "tab", "|": "'|'", ",": "','"}


class RawTable(NamedTuple):
    """A table as read from its file, before columns are encoded.

    Attributes:
        path: The file.
        table: The Arrow table. Columns of a CSV file are strings; an empty field is null.
        trimmed: Columns of a CSV file in which spaces around values were removed.
        row_index: Columns that pandas wrote as the row index.
        typed: Whether the file stores column types (Parquet).
        nameless: Number of CSV columns without name and values, which were left out.
    """

    path: Path
    table: Any
    trimmed: tuple[str, ...] = ()
    row_index: tuple[str, ...] = ()
    typed: bool = False
    nameless: int = 0

    @property
    def names(self) -> list[str]:
        """The column names, in order."""
        columns: list[str] = self.table.column_names
        return columns


def is_table(path: Path) -> bool:
    """Whether the file name has the suffix of a table."""
    return path.suffix.lower() in SUFFIXES


def load_table(path: Path, *, separator: str | None = None, charset: str | None = None) -> RawTable:
    """Load a CSV or Parquet file.

    Args:
        path: The file.
        separator: Column separator of a CSV file; by default a comma, for ``.tsv`` a tab.
        charset: Character encoding of a CSV file; UTF-8 by default.

    Raises:
        DataError: If the file cannot be read. The message suggests a separator or charset where one would help.
        LimbeckError: If pyarrow is not installed.
    """
    pa = import_optional("pyarrow", extra="table", purpose="Reading tables")
    check_file(path)
    suffix = path.suffix.lower()
    between = separator or "\t,"[suffix == ".csv"]
    if suffix not in SUFFIXES:
        raise DataError(f"{path} is not a .csv, .tsv or .parquet file.")
    try:
        raw = _parquet(path) if suffix == ".parquet" else _csv(path, between, charset)
    except (pa.ArrowException, OSError, UnicodeError, MemoryError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise DataError(f"{path} cannot be read as a table: {why}.{_hint(path, error, between, charset)}") from error
    _check_header(raw, separator)
    return raw


def _parquet(path: Path) -> RawTable:
    from pyarrow import parquet

    # Not parquet.read_table, which turns a folder name such as year=2020 into a column.
    table = parquet.ParquetFile(path).read()
    table.validate(full=True)  # checks UTF-8 and offsets, which reading does not
    index = _index_columns((table.schema.metadata or {}).get(b"pandas", b"{}"))
    return RawTable(path, table, row_index=tuple(name for name in index if name in table.column_names), typed=True)


def _index_columns(metadata: bytes) -> list[str]:
    """The index columns in the metadata of pandas; empty if there is none or it is damaged."""
    try:
        return [name for name in json.loads(metadata)["index_columns"] if isinstance(name, str)]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def _csv(path: Path, separator: str, charset: str | None) -> RawTable:
    import pyarrow as pa
    from pyarrow import compute, csv

    # Without newlines_in_values, a quoted line break at the end of a block would split its value in two.
    parse = csv.ParseOptions(delimiter=separator, newlines_in_values=True)
    read = csv.ReadOptions(encoding=charset or "utf8", block_size=_BLOCK)
    with csv.open_csv(path, read_options=read, parse_options=parse) as reader:
        names = reader.schema.names
    # Read all columns as strings: types are inferred later from all values, not from the first block.
    convert = csv.ConvertOptions(
        column_types={name: pa.string() for name in names}, strings_can_be_null=True, null_values=[""]
    )
    table = csv.read_csv(path, read_options=read, parse_options=parse, convert_options=convert)
    columns, column_names, trimmed = [], [], []
    for name, column in zip(names, table.columns, strict=True):
        short = compute.utf8_trim_whitespace(column)
        if not short.equals(column):
            trimmed.append(name.strip())
            short = compute.if_else(compute.equal(short, ""), pa.scalar(None, pa.string()), short)
        if name.strip() or short.null_count < len(short):
            columns.append(short.combine_chunks())
            column_names.append(name.strip())
    return RawTable(
        path, pa.table(columns, names=column_names), tuple(trimmed), nameless=len(names) - len(column_names)
    )


def _check_header(raw: RawTable, separator: str | None) -> None:
    """Raise for a table without rows, with duplicate column names, or with the wrong separator."""
    names = raw.names
    if len(set(names)) != len(names):
        double = next(name for name in names if names.count(name) > 1)
        called = f"named {double!r}" if double else "without a name; add names to its first row"
        raise DataError(f"{raw.path} has two columns {called}.")
    if raw.table.num_rows == 0 or not names:
        raise DataError(f"{raw.path} has a header but no rows.")
    other = next((character for character in _SEPARATORS if len(names) == 1 and character in names[0]), None)
    if other is not None and separator is None and not raw.typed:
        raise DataError(
            f"{raw.path} has one column, {names[0][:60]!r}: its columns seem to be separated by "
            f"{_SEPARATORS[other]}. Use --set data.separator={_typed(other)}, or separator={other!r} in Python."
        )


def _typed(separator: str) -> str:
    return "tab" if separator == "\t" else f"\"'{separator}'\""


def _hint(path: Path, error: Exception, separator: str, charset: str | None) -> str:
    """A hint about a wrong charset or separator; empty if neither explains the error."""
    with open(path, "rb") as file:
        begin = file.read(1 << 16)
    if path.suffix.lower() == ".parquet":
        return ""
    if begin[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return " It looks like UTF-16: use --set data.charset=utf-16, or charset='utf-16' in Python."
    message = str(error).lower()
    if charset is None and ("utf8" in message or "utf-8" in message or isinstance(error, UnicodeError)):
        return (
            " It is not UTF-8. Files from Excel and Windows often use Windows-1252: use --set data.charset=cp1252, or "
            "charset='cp1252' in Python, or save the file as UTF-8."
        )
    other = max(_SEPARATORS, key=lambda character: begin.partition(b"\n")[0].count(character.encode()))
    if "expected" in message and "columns" in message and other == separator:
        return " Values that contain the separator must be quoted, and lines before the header must be removed."
    if "expected" in message and "columns" in message and begin.partition(b"\n")[0].count(other.encode()):
        return (
            f" If its columns are separated by {_SEPARATORS[other]}, use --set data.separator={_typed(other)}, or "
            f"separator={other!r} in Python. Values that contain the separator must be quoted."
        )
    return ""


def check_columns(path: Path, required: Sequence[str], names: Sequence[str]) -> None:
    """Check that a table has all `required` columns.

    Raises:
        DataError: If one is missing. The message suggests the nearest name.
    """
    from limbeck.errors import nearest

    for name in required:
        if name not in names:
            several = [part.strip() for part in name.split(",")]
            if len(several) > 1 and set(several) <= set(names):
                raise DataError(
                    f"{path} has no column {name!r}, but it has the columns {', '.join(several)}. Several columns are "
                    f"a list in brackets: --set 'data.target=[{','.join(several)}]'."
                )
            near = nearest(name, names)
            suggestion = f" Did you mean {near!r}?" if near else ""
            header = "" if near or not starts_with_values(names) else _NO_HEADER
            raise DataError(
                f"{path} has no column {name!r}.{suggestion} Its columns are: {', '.join(names[:40])}.{header}"
            )


def starts_with_values(names: Sequence[str]) -> bool:
    """Whether the column names look like values of a row without a header: one of them is a fraction.

    Example:
        >>> starts_with_values(["5.1", "3.5", "setosa"]), starts_with_values(["2019", "2020", "class"])
        (True, False)
    """
    return any(is_number(name) and not name.isdecimal() for name in names)


def trimmed_note(raw: RawTable) -> list[str]:
    """Notes about removed spaces and empty columns; an empty list if there are none."""
    notes = [f"{raw.path.name}: {raw.nameless} columns without name and values are left out."] if raw.nameless else []
    if not raw.trimmed:
        return notes
    named = ", ".join(map(repr, raw.trimmed[:6])) + (", ..." if len(raw.trimmed) > 6 else "")
    return [*notes, f"{raw.path.name}: spaces around the values of {len(raw.trimmed)} columns were removed ({named})."]


def as_float64(column: Any) -> np.ndarray:
    """Convert an Arrow column of numbers to float64, with NaN for null."""
    import pyarrow as pa

    numbers: np.ndarray = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)
    return numbers
