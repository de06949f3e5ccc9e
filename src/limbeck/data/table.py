"""Reads CSV and Parquet tables as datasets: chooses features, encodes columns and splits rows."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from limbeck.batch import IGNORED
from limbeck.data.arrays import ArrayDataset
from limbeck.data.arrow import RawTable, check_columns, load_table, starts_with_values, trimmed_note
from limbeck.data.column_types import (
    ColumnValues,
    find_reason_to_skip,
    is_row_counter,
    matches_labels,
    missing_note,
    read_column,
    read_target,
)
from limbeck.data.dataset import split
from limbeck.data.match_columns import encode_known, encode_labels, find_codes, match_labels
from limbeck.data.name_matching import find_similar_names, is_number, order_classes, sorted_classes
from limbeck.data.splits import ColumnSummary
from limbeck.data.table_encoding import CategoryColumn, NumberColumn, TableEncoding
from limbeck.errors import DataError, LimbeckWarning

_MISSING = "(missing)"
_MOST = 1000  # different values of a category; a column with more is an identifier or a text


@dataclass(frozen=True)
class TableForm:
    """Options for reading a table.

    Attributes:
        target: The column with the classes.
        ignore: Columns to leave out.
        missing: Values that mean missing, in addition to empty fields and the usual strings.
        separator: Column separator of a CSV file; by default a comma, for ``.tsv`` a tab.
        charset: Character encoding of a CSV file; UTF-8 by default.
        class_names: The class order; by default sorted, numbers by value.
    """

    target: str
    ignore: Sequence[str] = ()
    missing: Sequence[str] = ()
    separator: str | None = None
    charset: str | None = None
    class_names: Sequence[str] = ()

    def load(self, path: str | Path) -> RawTable:
        """Load a file with these options."""
        return load_table(Path(path), separator=self.separator, charset=self.charset)


@dataclass
class TableReport:
    """Column summaries, notes and warnings of tables that were read.

    Attributes:
        columns: Summaries of the columns of the training part.
        notes: Notes about what was matched, converted or left out.
        warnings: Likely mistakes.
    """

    columns: list[ColumnSummary] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class TableParts(NamedTuple):
    """Tables with the same encoding.

    Attributes:
        parts: The dataset of each part.
        encoding: The encoding of the columns.
        report: Notes and warnings.
    """

    parts: dict[str, ArrayDataset]
    encoding: TableEncoding
    report: TableReport


def read_table(
    path: str | Path,
    *,
    target: str | None = None,
    encoding: TableEncoding | None = None,
    ignore: Sequence[str] = (),
    groups: str | None = None,
    missing: Sequence[str] = (),
    separator: str | None = None,
    charset: str | None = None,
) -> tuple[ArrayDataset, TableEncoding]:
    """Read a table as a dataset, and return it with its encoding.

    Inputs are float32 ``[n, features]``. Numbers are standardized. A category (strings, true/false) becomes one feature
    per name and one for all other names. Missing numbers become the mean; if the training part has any, another feature
    marks them. The values before encoding are in ``extra["raw"]``, for tree models: float32 ``[n, columns]`` in the
    order of the training table, with NaN for missing values and the index of the name (sorted) for categories.

    The type of a column is inferred from all of its values: numbers with a few other strings (``?``, ``NA``) are
    numbers with missing values. In the target, ``NA`` is a class unless the other classes are numbers. Spaces around
    values are removed. Row numbers are left out. With an `encoding`, names with another spelling than in the training
    part (male, Male) are matched to it.

    Args:
        path: A ``.csv``, ``.tsv`` or ``.parquet`` file with a header.
        target: The column with the classes (strings or whole numbers); by default that of the `encoding`. Rows without
            a class have the label -100. With an `encoding`, the column may be absent; then all labels are -100.
        encoding: The encoding of the training part, for a test part or new rows (`load_encoding` loads that of a
            student); None creates one from this table.
        ignore: Columns to leave out, such as identifiers.
        groups: A column with the group of each row, stored as strings in ``extra["groups"]``. It is also a feature,
            unless it is in `ignore` or not in the `encoding`.
        missing: Values that mean missing, in addition to empty fields and strings such as ``NA``.
        separator: Column separator of a CSV file; by default that of the `encoding`, else a comma, for ``.tsv`` a tab.
        charset: Character encoding of a CSV file, such as ``"cp1252"``; by default that of the `encoding`, else UTF-8.

    Raises:
        DataError: If the file cannot be read, a column is missing or has an unsupported type, or a column of at least
            ten rows has no value of the training part.
        LimbeckError: If pyarrow is not installed.

    Warns:
        LimbeckWarning: If something is likely to be a mistake.
    """
    if target is None:
        if encoding is None:
            raise DataError(f"target= is missing: which column of {path} has the classes?")
        target = encoding.target
    if encoding is not None:
        separator, charset = separator or encoding.separator, charset or encoding.charset
    form = TableForm(target.strip(), tuple(column.strip() for column in ignore), tuple(missing), separator, charset)
    raw, report = form.load(path), TableReport()
    if encoding is None:
        fitted = _TrainingTable(raw, form, report)
        encoding = fitted.encoding(slice(None), report)
        examples = fitted.examples(slice(None), encoding, _read_groups(raw, groups))
    else:
        examples = _encode_other_table(raw, form, encoding, groups, report)
    for sentence in report.warnings:
        warnings.warn(sentence, LimbeckWarning, stacklevel=2)
    return examples, encoding


def read_split_table(
    path: str | Path,
    *,
    target: str,
    fraction: float,
    seed: int,
    ignore: Sequence[str] = (),
    groups: str | None = None,
) -> tuple[ArrayDataset, ArrayDataset, TableEncoding]:
    """Split a table in a training part and a holdout part of size `fraction`, stratified by the target.

    The encoding is fitted on the training part only, except for the class names, which are those of the whole table.

    Args:
        path: See `read_table`.
        target: See `read_table`.
        fraction: The share of rows to hold out, between 0 and 1.
        seed: Seed of the split.
        ignore: See `read_table`.
        groups: See `read_table`; for the holdout part.

    Raises:
        DataError: See `read_table`.
    """
    form = TableForm(target, tuple(ignore))
    tables = split_table(path, form, fraction=fraction, seed=seed, groups=groups)
    return tables.parts["train"], tables.parts["test"], tables.encoding


def split_table(
    path: str | Path,
    form: TableForm,
    *,
    fraction: float,
    seed: int,
    groups: str | None = None,
    others: Mapping[str, str | Path] | None = None,
) -> TableParts:
    """Same as `read_split_table`, with notes, and with `others` encoded like the training part."""
    report = TableReport()
    raw = form.load(path)
    fitted = _TrainingTable(raw, form, report)
    rest, holdout = split(ArrayDataset(np.zeros((raw.table.num_rows, 1)), fitted.labels), fraction=fraction, seed=seed)
    rows = {"train": rest.index.numpy(), "test": holdout.index.numpy()}
    encoding = fitted.encoding(rows["train"], report)
    fitted.count_unknown(rows["test"], encoding, report)
    of_groups = _read_groups(raw, groups)
    parts = {
        name: fitted.examples(index, encoding, of_groups if name == "test" else None) for name, index in rows.items()
    }
    for name, other in (others or {}).items():
        parts[name] = _encode_other_table(form.load(other), form, encoding, None, report)
    return TableParts(parts, encoding, report)


def read_tables(
    path: str | Path, others: Mapping[str, str | Path], form: TableForm, *, groups: str | None = None
) -> TableParts:
    """Read a training table and others with the same encoding; `groups` apply to ``test``."""
    report = TableReport()
    raw = form.load(path)
    fitted = _TrainingTable(raw, form, report)
    encoding = fitted.encoding(slice(None), report)
    parts = {"train": fitted.examples(slice(None), encoding, None)}
    for name, other in others.items():
        parts[name] = _encode_other_table(form.load(other), form, encoding, groups if name == "test" else None, report)
    return TableParts(parts, encoding, report)


class _TrainingTable:
    """A training table whose columns are read once; its encoding can be fitted on some of the rows."""

    def __init__(self, raw: RawTable, form: TableForm, report: TableReport) -> None:
        check_columns(raw.path, [form.target, *form.ignore], raw.names)
        self._raw, self._form = raw, form
        self._classes, notes = read_target(raw, form.target, missing=form.missing)
        report.notes += [*trimmed_note(raw), *notes]
        self.class_names = self._names_of_classes()
        self.labels = encode_labels(raw, form.target, self._classes, self.class_names)
        self._columns = list[ColumnValues]()
        self._skipped = dict[str, str]()
        for name in raw.names:
            if name in {form.target, *form.ignore}:
                self._skipped[name] = "" if name == form.target else "in ignore"
            else:
                self._read(name, report)
        self._leave_counters(report)
        self._point_at_oddities(report)
        if not self._columns:
            without = ", ".join(f"{name} ({why})" if why else name for name, why in self._skipped.items())
            raise DataError(
                f"{raw.path} has no features: its columns are {without}. If one of them has texts to classify, use "
                "--set data.text=COLUMN."
            )

    def _names_of_classes(self) -> tuple[str, ...]:
        classes = {name for name in self._classes if name is not None}
        if not classes:
            raise DataError(f"{self._raw.path}: no row has a value in the target {self._form.target!r}.")
        return order_classes(sorted_classes(classes), self._form.class_names, who=str(self._raw.path))

    def _read(self, name: str, report: TableReport) -> None:
        column = read_column(self._raw, name, missing=self._form.missing)
        if why := find_reason_to_skip(column, index=name in self._raw.row_index):
            self._skipped[name] = why
            report.notes.append(
                f"{self._raw.path.name}: column {name!r} is left out ({why}). To use it, rename it"
                + (", or read it as texts with text=." if "text" in why else ".")
            )
            return
        if column.kind == "empty":
            raise DataError(f"{self._raw.path}: column {name!r} has no values. Leave it out with ignore=[{name!r}].")
        report.warnings += [column.warning] if column.warning else []
        self._columns.append(column)

    def _leave_counters(self, report: TableReport) -> None:
        """Leave out row counters; if there are no other columns, keep them and add a note."""
        counters = {column.name for column in self._columns if is_row_counter(column)}
        others = [column for column in self._columns if column.name not in counters]
        self._columns = others or self._columns
        for name in sorted(counters):
            start = f"{self._raw.path.name}: column {name!r} increases by one from row to row"
            if others:
                self._skipped[name] = "row numbers: increases by one in every row"
                report.notes.append(f"{start}, like a row number, and is left out. To use it, shuffle the rows.")
            else:
                report.notes.append(f"{start}. Is it a row number, not a feature?")

    def _point_at_oddities(self, report: TableReport) -> None:
        """Warn about columns equal to the target, similar names, and a first row that may not be a header."""
        who, target = self._raw.path.name, self._form.target
        if (target in self.class_names and not is_number(target)) or starts_with_values(self._raw.names):
            report.warnings.append(
                f"{who}: is the first row a header? It was read as one: {', '.join(self._raw.names[:6])}."
            )
        for column in self._columns:
            if matches_labels(column, self.labels):
                report.notes.append(
                    f"{who}: column {column.name!r} has exactly one value per class of the target {target!r}. If it "
                    f"is not available for prediction, leave it out: ignore=[{column.name!r}]."
                )
            if column.numbers is None and (same := find_similar_names(column.names.unique().drop_null().to_pylist())):
                listed = ", ".join(same[:4])
                report.notes.append(
                    f"{who}: column {column.name!r} has similar names that count as different: {listed}."
                )

    def encoding(self, rows: Any, report: TableReport) -> TableEncoding:
        """Fit the encoding on the given rows."""
        columns = tuple(self._fit(column, rows) for column in self._columns)
        report.columns += self._summaries(rows, columns)
        form = self._form
        return TableEncoding(form.target, self.class_names, columns, tuple(form.missing), form.separator, form.charset)

    def count_unknown(self, rows: Any, encoding: TableEncoding, report: TableReport) -> None:
        """Add notes about names in the holdout rows that are not in the training rows."""
        for column, kind in zip(self._columns, encoding.columns, strict=True):
            unknown = np.isnan(_encode_column(column, kind)[rows]) & ~column.missing[rows]
            if count := int(unknown.sum()):
                report.notes.append(
                    f"{self._raw.path.name}: {count:,} of {len(unknown):,} test rows have a name in column "
                    f"{column.name!r} that no training row has. They count as 'other'."
                )

    def examples(self, rows: Any, encoding: TableEncoding, groups: list[str] | None) -> ArrayDataset:
        """Encode the given rows."""
        raw = np.stack(
            [_encode_column(column, kind)[rows] for column, kind in zip(self._columns, encoding.columns, strict=True)],
            1,
        )
        chosen = None if groups is None else [str(group) for group in np.array(groups, dtype=object)[rows]]
        return _make_dataset(raw, self.labels[rows], encoding, chosen)

    def _fit(self, column: ColumnValues, rows: Any) -> NumberColumn | CategoryColumn:
        if column.numbers is None:
            return CategoryColumn(column.name, self._values(column, rows))
        some = column.numbers[rows]
        present = some[~np.isnan(some)]
        if len(present) == 0:
            raise DataError(
                f"{self._raw.path}: column {column.name!r} has no values in the training rows. Leave it out with "
                f"ignore=[{column.name!r}]."
            )
        return NumberColumn(column.name, float(present.mean()), float(present.std()) or 1.0, len(present) < len(some))

    def _values(self, column: ColumnValues, rows: Any) -> tuple[str, ...]:
        some = column.names if isinstance(rows, slice) else column.names.take(rows)
        values = tuple(sorted(value for value in some.unique().to_pylist() if value is not None))
        if len(values) > _MOST:
            raise DataError(
                f"{self._raw.path}: column {column.name!r} has {len(values)} different texts, more than {_MOST}. Leave "
                f"it out with ignore=[{column.name!r}] or group them. If it is the text to classify, use --set "
                f"data.text={column.name}."
            )
        return values

    def _summaries(self, rows: Any, columns: Sequence[NumberColumn | CategoryColumn]) -> list[ColumnSummary]:
        fitted = {column.name: (column, kind) for column, kind in zip(self._columns, columns, strict=True)}
        summaries = list[ColumnSummary]()
        for name in self._raw.names:
            if name == self._form.target:
                none = int((self.labels[rows] == IGNORED).sum())
                summaries.append(ColumnSummary(name, "target", none, len(self.class_names)))
            elif name in self._skipped:
                summaries.append(ColumnSummary(name, "left out", note=self._skipped[name]))
            else:
                column, kind = fitted[name]
                values = len(kind.values) if isinstance(kind, CategoryColumn) else None
                none, note = int(column.missing[rows].sum()), missing_note(self._raw, column)
                summaries.append(ColumnSummary(name, column.kind, none, values, note))
        return summaries


def _encode_other_table(
    raw: RawTable, form: TableForm, encoding: TableEncoding, groups: str | None, report: TableReport
) -> ArrayDataset:
    """Encode another table like the training part."""
    # A table for prediction need not have the target column.
    labeled = form.target in raw.names
    check_columns(raw.path, [*([groups] if groups else []), *(one.name for one in encoding.columns)], raw.names)
    if encoding.target != form.target:
        raise DataError(f"target={form.target!r} is not the target of the encoding, {encoding.target!r}.")
    missing = tuple(form.missing) or encoding.missing
    report.notes += [*trimmed_note(raw), *_unread_note(raw, form, encoding, groups, report)]
    columns = [encode_known(raw, column, missing, report.notes, report.warnings) for column in encoding.columns]
    labels = np.full(raw.table.num_rows, IGNORED)
    if labeled:
        classes, notes = read_target(raw, form.target, missing=missing)
        report.notes += [one for one in notes if one.endswith("counts as no label.")]
        classes, mapped = match_labels(raw, form.target, classes, encoding.class_names)
        report.notes += mapped
        labels = encode_labels(raw, form.target, classes, encoding.class_names)
    return _make_dataset(np.stack(columns, 1), labels, encoding, _read_groups(raw, groups))


def _unread_note(
    raw: RawTable, form: TableForm, encoding: TableEncoding, groups: str | None, report: TableReport
) -> list[str]:
    """A note about columns that are not in the training table; an empty list if there are none."""
    expected_names = {
        form.target,
        groups,
        *form.ignore,
        *(column.name for column in (*encoding.columns, *report.columns)),
    }
    extra_columns = [name for name in raw.names if name not in expected_names]
    if not extra_columns or not report.columns:
        return []
    named = ", ".join(map(repr, extra_columns[:6])) + (", ..." if len(extra_columns) > 6 else "")
    return [f"{raw.path.name}: {len(extra_columns)} columns that are not in the training table are left out ({named})."]


def _encode_column(column: ColumnValues, kind: NumberColumn | CategoryColumn) -> np.ndarray:
    return find_codes(column.names, kind.values) if isinstance(kind, CategoryColumn) else _get_numbers(column)


def _get_numbers(column: ColumnValues) -> np.ndarray:
    if column.numbers is None:
        raise DataError(f"column {column.name!r} is a category, not numbers.")
    return column.numbers


def _make_dataset(
    raw: np.ndarray, labels: np.ndarray, encoding: TableEncoding, groups: list[str] | None
) -> ArrayDataset:
    extra: dict[str, Any] = {"raw": raw.astype(np.float32)}
    if groups is not None:
        extra["groups"] = groups
    dataset = ArrayDataset(encoding.encode(raw), labels, extra=extra, class_names=encoding.class_names)
    dataset.encoding = encoding
    return dataset


def _read_groups(raw: RawTable, groups: str | None) -> list[str] | None:
    """The group of each row as a string; None if `groups` is None."""
    if groups is None:
        return None
    check_columns(raw.path, [groups], raw.names)
    column = read_column(raw, groups)  # raises for columns of lists, which cannot be cast to strings
    texts = column.names.to_pylist() if column.names is not None else raw.table[groups].cast("string").to_pylist()
    return [_MISSING if text is None else text for text in texts]
