"""How does a CSV or Parquet table become a set of examples?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.errors import DataError, nearest
from limbeck.signal import IGNORED
from limbeck.sources.arrays import Arrays
from limbeck.sources.arrow import is_whole, kind_of, load_table, numbers, texts, with_nan
from limbeck.sources.encoding import CategoryColumn, NumberColumn, TableEncoding
from limbeck.sources.examples import split

_MISSING = "(missing)"
_MOST = 1000  # names in one column; above, it is an identifier and no category


def read_table(
    path: str | Path,
    *,
    target: str | None = None,
    encoding: TableEncoding | None = None,
    ignore: Sequence[str] = (),
    groups: str | None = None,
) -> tuple[Arrays, TableEncoding]:
    """The rows of a table as examples, and how they were turned into numbers.

    Inputs are float32 ``[n, features]``: numbers standardised, names (texts, true/false) one feature each and one for
    any other; missing numbers become the mean, told by a further feature where the training part has any. The values
    before that are kept for trees: ``extra["raw"]`` is float32 ``[n, columns]`` in the order of the training table,
    with NaN for what is missing and the number of the name (sorted) for names.

    Args:
        path: A ``.csv``, ``.tsv`` or ``.parquet`` file with a header.
        target: The column of the classes: texts, or whole numbers; by default that of the `encoding`. Rows without one
            have the label -100; so have all rows where an `encoding` is given and the table has no such column.
        encoding: That of the training part, for a test part or new rows (`encoding_of` gives that of a student's
            folder); None makes one from this table.
        ignore: Columns to leave out, such as identifiers.
        groups: A column that says which group each row belongs to; as texts, it is ``extra["groups"]``. It is a feature
            too, unless it is in `ignore`, or the `encoding` does not know it.

    Raises:
        DataError: If the file cannot be read, or a column is missing or of a kind that has no encoding.
        LimbeckError: If pyarrow is not installed.
    """
    path = Path(path)
    if target is None:
        if encoding is None:
            raise DataError(f"target= is missing: which column of {path} holds the classes?")
        target = encoding.target
    table = load_table(path, encoding)
    # A table to be answered, not learnt from, need not have the column of the answers.
    asked = [] if encoding is not None and target not in table.column_names else [target]
    wanted = [
        *asked,
        *ignore,
        *([groups] if groups else []),
        *(column.name for column in (encoding.columns if encoding else ())),
    ]
    for name in wanted:
        _check_column(path, name, table.column_names)
    if encoding is not None and encoding.target != target:
        raise DataError(f"target={target!r} is not the one of the encoding, {encoding.target!r}.")
    if encoding is None:
        encoding = _fitted(path, table, target, {target, *ignore})
    return _encoded(path, table, encoding, groups), encoding


def read_split_table(
    path: str | Path,
    *,
    target: str,
    fraction: float,
    seed: int,
    ignore: Sequence[str] = (),
    groups: str | None = None,
) -> tuple[Arrays, Arrays, TableEncoding]:
    """Two parts of one table, the rest and the `fraction` that is held out, stratified by the target.

    The encoding is made from the rest alone, save the class names, which are those of the whole table.

    Args:
        path: As for `read_table`.
        target: As for `read_table`.
        fraction: The part of the rows to hold out, between 0 and 1.
        seed: Another seed holds out other rows.
        ignore: As for `read_table`.
        groups: As for `read_table`, of the part that is held out.

    Raises:
        DataError: As for `read_table`.
    """
    whole, encoding = read_table(path, target=target, ignore=ignore, groups=groups)
    table = load_table(Path(path), None)
    rest, held = split(whole, fraction=fraction, seed=seed)
    kept, tested = (table.take(part.index.numpy()) for part in (rest, held))
    encoding = replace(_fitted(Path(path), kept, target, {target, *ignore}), class_names=encoding.class_names)
    return _encoded(Path(path), kept, encoding), _encoded(Path(path), tested, encoding, groups), encoding


def _encoded(path: Path, table: Any, encoding: TableEncoding, groups: str | None = None) -> Arrays:
    raw = np.stack([_raw(path, table, column) for column in encoding.columns], 1)
    known = encoding.target in table.column_names
    labels = _labels(path, table, encoding) if known else np.full(table.num_rows, IGNORED)
    extra: dict[str, Any] = {"raw": raw.astype(np.float32)}
    if groups is not None:
        kind_of(path, table, groups)  # a column of lists has no texts
        extra["groups"] = [_MISSING if text is None else text for text in texts(table[groups]).to_pylist()]
    found = Arrays(encoding.encode(raw), labels, extra=extra, class_names=encoding.class_names)
    found.encoding = encoding
    return found


def _fitted(path: Path, table: Any, target: str, without: set[str]) -> TableEncoding:
    columns = tuple(_column(path, table, name) for name in table.column_names if name not in without)
    if not columns:
        raise DataError(f"{path} has no column besides {', '.join(sorted(without))} to learn from.")
    found = {text for text in _target_texts(path, table, target) if text is not None}
    if not found:
        raise DataError(f"{path}: no row has a value in the target {target!r}.")
    whole = all(is_whole(text) for text in found)
    return TableEncoding(target, tuple(sorted(found, key=int if whole else None)), columns)


def _column(path: Path, table: Any, name: str) -> NumberColumn | CategoryColumn:
    kind = kind_of(path, table, name)
    if kind == "empty":
        raise DataError(f"{path}: column {name!r} has no values; leave it out with ignore=[{name!r}].")
    if kind == "name":
        values = tuple(sorted(v for v in texts(table[name]).unique().to_pylist() if v is not None))
        if len(values) > _MOST:
            raise DataError(
                f"{path}: column {name!r} has {len(values)} different texts, more than {_MOST}; "
                f"leave it out with ignore=[{name!r}] or group them."
            )
        return CategoryColumn(name, values)
    column = numbers(path, table, name)
    present = column[~np.isnan(column)]
    if len(present) == 0:
        raise DataError(f"{path}: column {name!r} has no values; leave it out with ignore=[{name!r}].")
    return NumberColumn(name, float(present.mean()), float(present.std()) or 1.0, len(present) < len(column))


def _raw(path: Path, table: Any, column: NumberColumn | CategoryColumn) -> np.ndarray:
    import pyarrow as pa
    from pyarrow import compute

    kind = kind_of(path, table, column.name)
    if kind == "empty":
        return np.full(table.num_rows, np.nan)
    if isinstance(column, CategoryColumn):
        codes = compute.index_in(texts(table[column.name]), value_set=pa.array(column.values, pa.string()))
        return with_nan(codes)
    if kind != "number":
        first = next(v for v in texts(table[column.name]).to_pylist() if v is not None)
        raise DataError(f"{path}: column {column.name!r} held numbers in the training part, here it holds {first!r}.")
    return numbers(path, table, column.name)


def _target_texts(path: Path, table: Any, target: str) -> list[str | None]:
    kind = kind_of(path, table, target)
    if kind == "empty":
        return [None] * table.num_rows
    if kind == "name":
        return texts(table[target]).to_pylist()
    values = numbers(path, table, target)
    if (wrong := ~np.isnan(values) & (values != np.round(values))).any():
        row = int(wrong.argmax())
        raise DataError(
            f"{path}: the target {target!r} is {values[row]} in row {row}, no class; give texts or whole numbers."
        )
    return [None if np.isnan(value) else str(int(value)) for value in values]


def _labels(path: Path, table: Any, encoding: TableEncoding) -> np.ndarray:
    places: dict[str | None, int] = {name: place for place, name in enumerate(encoding.class_names)}
    places[None] = IGNORED
    found = _target_texts(path, table, encoding.target)
    for row, text in enumerate(found):
        if text not in places:
            known = ", ".join(encoding.class_names[:12])
            raise DataError(
                f"{path}: row {row} has the class {text!r} in {encoding.target!r}, which is none of {known}."
            )
    return np.array([places[text] for text in found], dtype=np.int64)


def _check_column(path: Path, name: str, names: list[str]) -> None:
    if name not in names:
        near = nearest(name, names)
        meant = f" Did you mean {near!r}?" if near else ""
        raise DataError(f"{path} has no column {name!r}.{meant} It has: {', '.join(names[:40])}.")
