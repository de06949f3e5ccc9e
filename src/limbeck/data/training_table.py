"""The training part of a table: its feature columns and their encoding."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from limbeck.batch import IGNORED
from limbeck.data.arrays import ArrayDataset
from limbeck.data.arrow import RawTable, check_columns, load_table, starts_with_values, trimmed_note
from limbeck.data.column_types import ColumnValues, missing_note, read_column, read_target
from limbeck.data.name_matching import encode_classes, find_similar_names, is_number, order_classes, sorted_classes
from limbeck.data.splits import ColumnSummary
from limbeck.data.table_encoding import CategoryColumn, NumberColumn, TableEncoding, find_codes
from limbeck.data.targets import InferredTask, TargetRequest, read_targets
from limbeck.errors import DataError

_MISSING = "(missing)"
_MOST = 1000  # different values of a category; a column with more is an identifier or a text
_NAMELESS = re.compile(r"|Unnamed: ?\d+(_level_\d+)?|__index_level_\d+__|\.\.\.\d+")

"""Names that pandas, Arrow and R give to a column without a name, usually the row index."""

_IDENTIFIER = re.compile(
    r"(?i:id|idx|index|row|rows|row[_ .-]?(id|idx|number|num|no|nr|index)|line|nr|no\.?|#|uuid|guid)"
    r"|.*[_ .-](id|ID|Id|nr|Nr|NR|uuid|guid)|.*[a-z](Id|ID)"
)

_ENOUGH = 20  # rows; with fewer, all values may differ by chance


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
        request: The task, further target columns, and what separates several labels.
    """

    target: str
    ignore: Sequence[str] = ()
    missing: Sequence[str] = ()
    separator: str | None = None
    charset: str | None = None
    class_names: Sequence[str] = ()
    request: TargetRequest = field(default_factory=lambda: TargetRequest("classification"))

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
        task: The task of the target columns.
    """

    columns: list[ColumnSummary] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    task: InferredTask = field(default_factory=lambda: InferredTask("classification"))


class TrainingTable:
    """A training table whose columns are read once; its encoding can be fitted on some of the rows."""

    def __init__(self, raw: RawTable, form: TableForm, report: TableReport) -> None:
        check_columns(raw.path, [form.target, *form.ignore], raw.names)
        self._raw, self._form = raw, form
        report.notes += trimmed_note(raw)
        self._read_targets(report)
        self._columns = list[ColumnValues]()
        self._skipped = dict[str, str]()
        for name in raw.names:
            if name in {form.target, *form.request.columns, *form.ignore}:
                self._skipped[name] = "in ignore" if name in form.ignore else ""
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

    def _read_targets(self, report: TableReport) -> None:
        raw, form = self._raw, self._form
        request = replace(form.request, columns=form.request.columns or (form.target,))
        self.target_columns, report.task = request.find_columns(raw, form.missing)
        self.targets: np.ndarray | None = None
        self.class_names: tuple[str, ...] = ()
        if self.target_columns is not None:
            self.targets = read_targets(self.target_columns, raw, form.missing, report.notes)
            self.labels = np.full(len(self.targets), IGNORED)
            return
        self._classes, notes = read_target(raw, form.target, missing=form.missing)
        report.notes += notes
        self.class_names = self._names_of_classes()
        self.labels, _ = encode_classes(self._classes, self.class_names, file=raw.path, where=f"in {form.target!r}")

    def _names_of_classes(self) -> tuple[str, ...]:
        classes = {name for name in self._classes if name is not None}
        if not classes:
            raise DataError(f"{self._raw.path}: no row has a value in the target {self._form.target!r}.")
        return order_classes(sorted_classes(classes), self._form.class_names, who=str(self._raw.path))

    def _read(self, name: str, report: TableReport) -> None:
        column = read_column(self._raw, name, missing=self._form.missing)
        if why := _find_reason_to_skip(column, index=name in self._raw.row_index):
            self._skipped[name] = why
            report.notes.append(
                f"{self._raw.path.name}: column {name!r} is left out ({why}). "
                + (
                    f"To use it, group its values into fewer, or classify it as a text: --set data.text={quote(name)}."
                    if "text" in why
                    else "To use it, rename it."
                )
            )
            return
        if column.kind == "empty":
            raise DataError(f"{self._raw.path}: column {name!r} has no values. Leave it out with ignore=[{name!r}].")
        report.warnings += [column.warning] if column.warning else []
        self._columns.append(column)

    def _leave_counters(self, report: TableReport) -> None:
        """Leave out row counters; if there are no other columns, keep them and add a note."""
        counters = {column.name for column in self._columns if _is_row_counter(column)}
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
            if _matches_labels(column, self.labels):
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
        return TableEncoding(
            form.target, self.class_names, columns, tuple(form.missing), form.separator, form.charset,
            self.target_columns,
        )  # fmt: skip

    def count_unknown(self, rows: Any, encoding: TableEncoding, report: TableReport) -> None:
        """Add notes about names in the holdout rows that are not in the training rows."""
        for column, kind in zip(self._columns, encoding.columns, strict=True):
            unknown = np.isnan(_encode_column(column, kind)[rows]) & ~column.missing[rows]
            if count := int(unknown.sum()):
                report.notes.append(
                    f"{self._raw.path.name}: {count:,} of {len(unknown):,} test rows have a name in column "
                    f"{column.name!r} that no training row has. They count as 'other'."
                )

    def examples(self, rows: Any, encoding: TableEncoding, groups: str | None = None) -> ArrayDataset:
        """Encode the given rows; `groups` is the column with their groups."""
        raw = np.stack(
            [_encode_column(column, kind)[rows] for column, kind in zip(self._columns, encoding.columns, strict=True)],
            1,
        )
        names = read_groups(self._raw, groups)
        chosen = None if names is None else [str(name) for name in np.array(names, dtype=object)[rows]]
        targets = self.labels if self.targets is None else self.targets
        return make_dataset(raw, targets[rows], encoding, chosen)

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
            if name == self._form.target or name in self._form.request.columns:
                summaries.append(self._target_summary(name, rows))
            elif name in self._skipped:
                summaries.append(ColumnSummary(name, "left out", note=self._skipped[name]))
            else:
                column, kind = fitted[name]
                values = len(kind.values) if isinstance(kind, CategoryColumn) else None
                none, note = int(column.missing[rows].sum()), missing_note(self._raw, column)
                summaries.append(ColumnSummary(name, column.kind, none, values, note))
        return summaries

    def _target_summary(self, name: str, rows: Any) -> ColumnSummary:
        if self.targets is None or self.target_columns is None:
            none = int((self.labels[rows] == IGNORED).sum())
            return ColumnSummary(name, "target", none, len(self.class_names))
        names = self.target_columns.names
        unknown = np.isnan(self.targets[rows]) if self.targets.dtype.kind == "f" else self.targets[rows] == IGNORED
        unknown = unknown[:, names.index(name)] if name in names else unknown.all(1)
        return ColumnSummary(name, "target", int(unknown.sum()), len(names) if name not in names else None)


def _find_reason_to_skip(column: ColumnValues, *, index: bool) -> str:
    """The reason to leave a column out because it identifies rows; empty for a feature.

    Args:
        column: All of its values.
        index: Whether the file marks the column as the row index.
    """
    if index:
        return "row index written by pandas"
    nameless = _NAMELESS.fullmatch(column.name) is not None
    if not (all_differ := _all_differ(column)):
        return ""
    if column.kind == "number" and (nameless or _IDENTIFIER.fullmatch(column.name)):
        return "row numbers: a different whole number in each row"
    looks_like_numbers = bool(column.warning)
    if column.kind == "category" and (nameless or all_differ >= _ENOUGH) and not looks_like_numbers:
        return "a different text in each row"
    return ""


def _is_row_counter(column: ColumnValues) -> bool:
    """Whether a column of whole numbers increases by one from row to row."""
    if column.numbers is None or len(column.numbers) < _ENOUGH:
        return False
    whole = float(column.numbers[0]).is_integer()
    return whole and bool((np.diff(column.numbers) == 1).all())


def _matches_labels(column: ColumnValues, labels: np.ndarray) -> bool:
    """Whether values and classes correspond one to one in all labeled rows.

    Args:
        column: All of its values.
        labels: The class of each row; negative means no label.
    """
    there = (labels >= 0) & ~column.missing
    values = column.numbers if column.numbers is not None else column.names.to_numpy(zero_copy_only=False)
    chosen, classes = values[there], labels[there]
    class_set = set(classes.tolist())
    if len(class_set) < 2 or len(chosen) < max(_ENOUGH, 2 * len(class_set)):
        return False
    pairs = set(zip(chosen.tolist(), classes.tolist(), strict=True))
    return len(pairs) == len(class_set) == len({value for value, _ in pairs})


def _all_differ(column: ColumnValues) -> int:
    """The number of rows if all values differ (and numbers are whole), else 0."""
    if column.kind == "empty" or column.missing.any():
        return 0
    if column.numbers is not None:
        whole = bool((column.numbers == np.round(column.numbers)).all())
        return len(column.numbers) if whole and len(np.unique(column.numbers)) == len(column.numbers) else 0
    return len(column.names) if len(column.names.unique()) == len(column.names) else 0


def _encode_column(column: ColumnValues, kind: NumberColumn | CategoryColumn) -> np.ndarray:
    if column.numbers is not None:
        return column.numbers
    return find_codes(column.names, kind.values if isinstance(kind, CategoryColumn) else ())


def make_dataset(
    raw: np.ndarray, labels: np.ndarray, encoding: TableEncoding, groups: list[str] | None
) -> ArrayDataset:
    """The dataset of encoded rows, with labels or targets; ``extra["raw"]`` has the values before encoding."""
    extra: dict[str, Any] = {"raw": raw.astype(np.float32)}
    if groups is not None:
        extra["groups"] = groups
    if encoding.targets is not None:
        dataset = ArrayDataset(encoding.encode(raw), extra={**extra, "targets": labels})
    else:
        dataset = ArrayDataset(encoding.encode(raw), labels, extra=extra, class_names=encoding.class_names)
    dataset.encoding = encoding
    dataset.leave_out_groups()
    return dataset


def read_groups(raw: RawTable, groups: str | None) -> list[str] | None:
    """The group of each row as a string; None if `groups` is None."""
    if groups is None:
        return None
    check_columns(raw.path, [groups], raw.names)
    column = read_column(raw, groups)  # raises for columns of lists, which cannot be cast to strings
    texts = column.names.to_pylist() if column.names is not None else raw.table[groups].cast("string").to_pylist()
    return [_MISSING if text is None else text for text in texts]
