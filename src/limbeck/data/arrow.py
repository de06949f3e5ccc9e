"""Reading a table file into Arrow columns: CSV as trimmed texts, Parquet with its own types."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from limbeck.data.name_matching import is_number
from limbeck.data.npz import check_file
from limbeck.errors import DataError, LimbeckError

SUFFIXES = (".csv", ".tsv", ".parquet")
_BLOCK = 1 << 24  # bytes parsed at a time: a row, with all line breaks in its quotes, must fit into one
_NO_HEADER = " Its first row seems to hold values: put a header, the names of the columns, above it."
_SEPARATORS = {";": "';'", "\t": "tab", "|": "'|'", ",": "','"}


class RawTable(NamedTuple):
    """A table as it lies in its file.

    Attributes:
        path: The file.
        table: The Arrow table. Columns of a CSV file are texts; an empty field is null.
        trimmed: In which columns of a CSV file spaces around values were removed.
        row_index: Columns that pandas wrote as the index of its rows.
        typed: Whether the file says what kind its columns are.
        nameless: How many columns of a CSV file were left out that have no name and no value.
    """

    path: Path
    table: Any
    trimmed: tuple[str, ...] = ()
    row_index: tuple[str, ...] = ()
    typed: bool = False
    nameless: int = 0

    @property
    def names(self) -> list[str]:
        """The columns, in order."""
        columns: list[str] = self.table.column_names
        return columns


def is_table(path: Path) -> bool:
    """Whether a file is one by its name."""
    return path.suffix.lower() in SUFFIXES


def load_table(path: Path, *, separator: str | None = None, charset: str | None = None) -> RawTable:
    """The table in a CSV or Parquet file.

    Args:
        path: The file.
        separator: Between the columns of a CSV file; by default a comma, in ``.tsv`` a tab.
        charset: How a CSV file writes characters; UTF-8 by default.

    Raises:
        DataError: If it cannot be read: with the separator or the charset that would mend it, where one would.
        LimbeckError: If pyarrow is not installed.
    """
    try:
        import pyarrow as pa
    except ImportError as error:
        raise LimbeckError("Reading tables needs pyarrow: pip install 'limbeck[table]'.") from error
    check_file(path)
    suffix = path.suffix.lower()
    between = separator or "\t,"[suffix == ".csv"]
    if suffix not in SUFFIXES:
        raise DataError(f"{path} is none of .csv, .tsv and .parquet.")
    try:
        raw = _parquet(path) if suffix == ".parquet" else _csv(path, between, charset)
    except (pa.ArrowException, OSError, UnicodeError, MemoryError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise DataError(f"{path} cannot be read as a table: {why}.{_hint(path, error, between, charset)}") from error
    _check_header(raw, separator)
    return raw


def _parquet(path: Path) -> RawTable:
    from pyarrow import parquet

    # Not read_table: it would take a folder's name, year=2020, for a column.
    table = parquet.ParquetFile(path).read()
    table.validate(full=True)  # the bytes of its texts, and what its offsets point at: reading looks at neither
    index = _index_columns((table.schema.metadata or {}).get(b"pandas", b"{}"))
    return RawTable(path, table, row_index=tuple(name for name in index if name in table.column_names), typed=True)


def _index_columns(metadata: bytes) -> list[str]:
    """The columns that pandas says are an index of rows; none where it says nothing that can be read."""
    try:
        return [name for name in json.loads(metadata)["index_columns"] if isinstance(name, str)]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def _csv(path: Path, separator: str, charset: str | None) -> RawTable:
    import pyarrow as pa
    from pyarrow import compute, csv

    # A line break in quotes belongs to its value; else one value in each block of the file would be torn in two.
    parse = csv.ParseOptions(delimiter=separator, newlines_in_values=True)
    read = csv.ReadOptions(encoding=charset or "utf8", block_size=_BLOCK)
    with csv.open_csv(path, read_options=read, parse_options=parse) as reader:
        names = reader.schema.names
    # Each as texts: what a column holds is decided by all of its values, not by the first block.
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
    """Refuse a table without rows, with two columns of one name, or one that another separator would split."""
    names = raw.names
    if len(set(names)) != len(names):
        double = next(name for name in names if names.count(name) > 1)
        called = f"named {double!r}" if double else "without a name: name them in its first row"
        raise DataError(f"{raw.path} has two columns {called}.")
    if raw.table.num_rows == 0 or not names:
        raise DataError(f"{raw.path} has a header and no rows.")
    other = next((character for character in _SEPARATORS if len(names) == 1 and character in names[0]), None)
    if other is not None and separator is None and not raw.typed:
        raise DataError(
            f"{raw.path} has one column, {names[0][:60]!r}: its columns seem to be separated by {_SEPARATORS[other]}. "
            f"Type --set data.separator={_typed(other)}, in Python separator={other!r}."
        )


def _typed(separator: str) -> str:
    return "tab" if separator == "\t" else f"\"'{separator}'\""


def _hint(path: Path, error: Exception, separator: str, charset: str | None) -> str:
    """What to type where a file is written in other characters than those that it was read as."""
    with open(path, "rb") as file:
        begin = file.read(1 << 16)
    if path.suffix.lower() == ".parquet":
        return ""
    if begin[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return " It begins as a file in UTF-16 does: type --set data.charset=utf-16, in Python charset='utf-16'."
    message = str(error).lower()
    if charset is None and ("utf8" in message or "utf-8" in message or isinstance(error, UnicodeError)):
        return (
            " It is not written in UTF-8. Files from Excel and from Windows often are in Windows-1252: type --set "
            "data.charset=cp1252, in Python charset='cp1252', or save it as UTF-8."
        )
    other = max(_SEPARATORS, key=lambda character: begin.partition(b"\n")[0].count(character.encode()))
    if "expected" in message and "columns" in message and other == separator:
        return " A value that holds the separator must stand in quotes; lines before the header must go."
    if "expected" in message and "columns" in message and begin.partition(b"\n")[0].count(other.encode()):
        return (
            f" If its columns are separated by {_SEPARATORS[other]}, type --set data.separator={_typed(other)}, in "
            f"Python separator={other!r}; a value that holds the separator must stand in quotes."
        )
    return ""


def check_columns(path: Path, required: Sequence[str], names: Sequence[str]) -> None:
    """Refuse columns that a table lacks.

    Raises:
        DataError: With the nearest that it has.
    """
    from limbeck.errors import nearest

    for name in required:
        if name not in names:
            near = nearest(name, names)
            suggestion = f" Did you mean {near!r}?" if near else ""
            header = "" if near or not starts_with_values(names) else _NO_HEADER
            raise DataError(f"{path} has no column {name!r}.{suggestion} It has: {', '.join(names[:40])}.{header}")


def starts_with_values(names: Sequence[str]) -> bool:
    """Whether the names of columns are values of a first row, and no header: one of them is a fraction.

    Example:
        >>> starts_with_values(["5.1", "3.5", "setosa"]), starts_with_values(["2019", "2020", "class"])
        (True, False)
    """
    return any(is_number(name) and not name.isdecimal() for name in names)


def trimmed_note(raw: RawTable) -> list[str]:
    """A sentence about spaces and empty columns that were removed; none where there were none."""
    notes = (
        [f"{raw.path.name}: columns with no name and no value are left out ({raw.nameless})."] if raw.nameless else []
    )
    if not raw.trimmed:
        return notes
    named = ", ".join(map(repr, raw.trimmed[:6])) + (", ..." if len(raw.trimmed) > 6 else "")
    return [*notes, f"{raw.path.name}: spaces around the values of {len(raw.trimmed)} columns were removed ({named})."]


def as_float64(column: Any) -> np.ndarray:
    """Arrow numbers as float64, NaN where they are null."""
    import pyarrow as pa

    numbers: np.ndarray = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)
    return numbers
