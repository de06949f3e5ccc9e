"""CSV and Parquet tables as data sets: which columns are features, and their splits."""

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
from limbeck.data.class_order import order_classes, sorted_classes
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
from limbeck.data.name_matching import find_similar_names, is_number
from limbeck.data.summary import ColumnSummary
from limbeck.data.table_encoding import CategoryColumn, NumberColumn, TableEncoding
from limbeck.errors import DataError, LimbeckWarning

_MISSING = "(missing)"
_MOST = 1000  # names in one column; above, it is an identifier or a text, and no category


@dataclass(frozen=True)
class TableForm:
    """How a table lies in its file, and what of it is read.

    Attributes:
        target: The column of the classes.
        ignore: Columns to leave out.
        missing: What stands for a missing value, besides an empty field and the usual words.
        separator: Between the columns of a CSV file; by default a comma, in ``.tsv`` a tab.
        charset: How a CSV file writes characters; UTF-8 by default.
        class_names: The classes in the order of their numbers; sorted by default, numbers as numbers.
    """

    target: str
    ignore: Sequence[str] = ()
    missing: Sequence[str] = ()
    separator: str | None = None
    charset: str | None = None
    class_names: Sequence[str] = ()

    def load(self, path: str | Path) -> RawTable:
        """The table in a file."""
        return load_table(Path(path), separator=self.separator, charset=self.charset)


@dataclass
class TableReport:
    """What is to be said of a table that was read.

    Attributes:
        columns: Of the training part.
        notes: Sentences about what was mapped, converted or left out.
        warnings: Sentences about what is likely wrong.
    """

    columns: list[ColumnSummary] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class TableParts(NamedTuple):
    """Tables that were read alike.

    Attributes:
        parts: The examples of each part by its name.
        encoding: How they were turned into numbers.
        report: What is to be said of them.
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
    """The rows of a table as examples, and how they were turned into numbers.

    Inputs are float32 ``[n, features]``: numbers standardized, names (texts, true/false) one feature each and one for
    any other; missing numbers become the mean, told by a further feature where the training part has any. The values
    before that are kept for trees: ``extra["raw"]`` is float32 ``[n, columns]`` in the order of the training table,
    with NaN for what is missing and the number of the name (sorted) for names.

    What a column holds is decided by all of its values. One of numbers with a few words in it (``?``, ``NA``) is one of
    numbers, with missing values. In the target a class may be called ``NA``, unless the other classes are numbers.
    Spaces around values are removed. Columns that number the rows are left out. With an `encoding`, a name that is
    written otherwise than in the training part (male, Male) is taken for the one that it is like.

    Args:
        path: A ``.csv``, ``.tsv`` or ``.parquet`` file with a header.
        target: The column of the classes: texts, or whole numbers; by default that of the `encoding`. Rows without one
            have the label -100; so have all rows where an `encoding` is given and the table has no such column.
        encoding: That of the training part, for a test part or new rows (`load_encoding` gives that of a student's
            folder); None makes one from this table.
        ignore: Columns to leave out, such as identifiers.
        groups: A column that says which group each row belongs to; as texts, it is ``extra["groups"]``. It is a feature
            too, unless it is in `ignore`, or the `encoding` does not know it.
        missing: What stands for a missing value, besides an empty field and ``NA`` and its like.
        separator: Between the columns of a CSV file; by default that of the `encoding`, else a comma, in ``.tsv`` a
            tab.
        charset: How a CSV file writes characters, such as ``"cp1252"``; by default that of the `encoding`, else UTF-8.

    Raises:
        DataError: If the file cannot be read, a column is missing or of a kind that has no encoding, or one of at least
            ten rows holds no value that the training part held.
        LimbeckError: If pyarrow is not installed.

    Warns:
        LimbeckWarning: Of what is likely to be a mistake.
    """
    if target is None:
        if encoding is None:
            raise DataError(f"target= is missing: which column of {path} holds the classes?")
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
    """As `read_split_table`, with `others` that are read as the rest was, and what is to be said of all."""
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
    """A training table and others that are read as it was, by their names; `groups` are those of ``test``."""
    report = TableReport()
    raw = form.load(path)
    fitted = _TrainingTable(raw, form, report)
    encoding = fitted.encoding(slice(None), report)
    parts = {"train": fitted.examples(slice(None), encoding, None)}
    for name, other in others.items():
        parts[name] = _encode_other_table(form.load(other), form, encoding, groups if name == "test" else None, report)
    return TableParts(parts, encoding, report)


class _TrainingTable:
    """A training table, its columns read once; what is learnt of them may be learnt from some of the rows."""

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
                self._skipped[name] = "" if name == form.target else "as you asked"
            else:
                self._read(name, report)
        self._leave_counters(report)
        self._point_at_oddities(report)
        if not self._columns:
            without = ", ".join(f"{name} ({why})" if why else name for name, why in self._skipped.items())
            raise DataError(
                f"{raw.path} has no column besides {without} to learn from. If one holds texts to be classified, type "
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
                f"{self._raw.path.name}: column {name!r} is left out ({why}); rename it to have it read"
                + (", or read it as texts with text=." if "text" in why else ".")
            )
            return
        if column.kind == "empty":
            raise DataError(f"{self._raw.path}: column {name!r} has no values; leave it out with ignore=[{name!r}].")
        report.warnings += [column.warning] if column.warning else []
        self._columns.append(column)

    def _leave_counters(self, report: TableReport) -> None:
        """Leave out what counts the rows, whatever it is called; where nothing else is left, point at it."""
        counters = {column.name for column in self._columns if is_row_counter(column)}
        others = [column for column in self._columns if column.name not in counters]
        self._columns = others or self._columns
        for name in sorted(counters):
            start = f"{self._raw.path.name}: column {name!r} goes up by one from row to row"
            if others:
                self._skipped[name] = "row numbers: up by one in every row"
                report.notes.append(
                    f"{start}, as a row number does, and is left out; shuffle the rows to have it read."
                )
            else:
                report.notes.append(f"{start}; it may be a row number and no feature.")

    def _point_at_oddities(self, report: TableReport) -> None:
        """Say which columns hold the answer, which names are written alike, and that a header may be a row."""
        who, target = self._raw.path.name, self._form.target
        if (target in self.class_names and not is_number(target)) or starts_with_values(self._raw.names):
            report.warnings.append(
                f"{who}: is the first row a header? It was read as one: {', '.join(self._raw.names[:6])}."
            )
        for column in self._columns:
            if matches_labels(column, self.labels):
                report.notes.append(
                    f"{who}: column {column.name!r} tells the target {target!r} by itself, one value for each class. "
                    f"If it is not known before the answer is, leave it out: ignore=[{column.name!r}]."
                )
            if column.numbers is None and (same := find_similar_names(column.names.unique().drop_null().to_pylist())):
                listed = ", ".join(same[:4])
                report.notes.append(
                    f"{who}: column {column.name!r} has names that are written alike and told apart: {listed}."
                )

    def encoding(self, rows: Any, report: TableReport) -> TableEncoding:
        """How the table is turned into numbers, learnt from some of its rows."""
        columns = tuple(self._fit(column, rows) for column in self._columns)
        report.columns += self._summaries(rows, columns)
        form = self._form
        return TableEncoding(form.target, self.class_names, columns, tuple(form.missing), form.separator, form.charset)

    def count_unknown(self, rows: Any, encoding: TableEncoding, report: TableReport) -> None:
        """Say which names of the rows that are held out the rest of the table lacks."""
        for column, kind in zip(self._columns, encoding.columns, strict=True):
            unknown = np.isnan(_encode_column(column, kind)[rows]) & ~column.missing[rows]
            if count := int(unknown.sum()):
                report.notes.append(
                    f"{self._raw.path.name}: {count:,} of {len(unknown):,} test rows have a name in column "
                    f"{column.name!r} that no training row has; they count as 'other'."
                )

    def examples(self, rows: Any, encoding: TableEncoding, groups: list[str] | None) -> ArrayDataset:
        """Some of the rows, encoded."""
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
                f"{self._raw.path}: column {column.name!r} has no values in the rows that are learnt from; leave it "
                f"out with ignore=[{column.name!r}]."
            )
        return NumberColumn(column.name, float(present.mean()), float(present.std()) or 1.0, len(present) < len(some))

    def _values(self, column: ColumnValues, rows: Any) -> tuple[str, ...]:
        some = column.names if isinstance(rows, slice) else column.names.take(rows)
        values = tuple(sorted(value for value in some.unique().to_pylist() if value is not None))
        if len(values) > _MOST:
            raise DataError(
                f"{self._raw.path}: column {column.name!r} has {len(values)} different texts, more than {_MOST}; leave "
                f"it out with ignore=[{column.name!r}] or group them. If it is the text to be classified, type --set "
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
    """Another table, read as the training part was."""
    # A table to be answered, not learnt from, need not have the column of the answers.
    labeled = form.target in raw.names
    check_columns(raw.path, [*([groups] if groups else []), *(one.name for one in encoding.columns)], raw.names)
    if encoding.target != form.target:
        raise DataError(f"target={form.target!r} is not the one of the encoding, {encoding.target!r}.")
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
    """A sentence about columns that another table has and the training part's features lack."""
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
    return [f"{raw.path.name}: {len(extra_columns)} columns that the training table lacks are left out ({named})."]


def _encode_column(column: ColumnValues, kind: NumberColumn | CategoryColumn) -> np.ndarray:
    return find_codes(column.names, kind.values) if isinstance(kind, CategoryColumn) else _get_numbers(column)


def _get_numbers(column: ColumnValues) -> np.ndarray:
    if column.numbers is None:
        raise DataError(f"column {column.name!r} holds names.")
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
    """The group of each row as a text; None where nobody wants any."""
    if groups is None:
        return None
    check_columns(raw.path, [groups], raw.names)
    column = read_column(raw, groups)  # a column of lists has no texts
    texts = column.names.to_pylist() if column.names is not None else raw.table[groups].cast("string").to_pylist()
    return [_MISSING if text is None else text for text in texts]
