"""Reads CSV and Parquet tables as datasets."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from limbeck.batch import IGNORED
from limbeck.data.arrays import ArrayDataset
from limbeck.data.arrow import RawTable, check_columns, trimmed_note
from limbeck.data.column_types import read_target
from limbeck.data.dataset import split
from limbeck.data.name_matching import encode_classes
from limbeck.data.options import DataOptions
from limbeck.data.preprocess import Identity
from limbeck.data.splits import HELD_OUT, DataSplits, held_out_note, held_out_source, summarize
from limbeck.data.table_encoding import TableEncoding, encode_known
from limbeck.data.targets import TargetRequest, read_targets
from limbeck.data.training_table import TableForm, TableReport, TrainingTable, make_dataset, read_groups
from limbeck.errors import DataError, LimbeckError, LimbeckWarning


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
            raise DataError(f"target= is missing: which column of {path} has the targets (classes, numbers or labels)?")
        target = encoding.target
    if encoding is not None:
        separator, charset = separator or encoding.separator, charset or encoding.charset
    form = TableForm(target.strip(), tuple(column.strip() for column in ignore), tuple(missing), separator, charset)
    raw, report = form.load(path), TableReport()
    if encoding is None:
        table = TrainingTable(raw, form, report)
        encoding = table.encoding(slice(None), report)
        examples = table.examples(slice(None), encoding, groups)
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
        groups: See `read_table`.

    Raises:
        DataError: See `read_table`.
    """
    parts, encoding, _ = _read_parts(
        path, TableForm(target, tuple(ignore)), groups=groups, fraction=fraction, seed=seed
    )
    return parts["train"], parts["test"], encoding


def load_table_splits(name: str, options: DataOptions) -> DataSplits:
    """Load a table and, if the options name them, the tables of other parts.

    Raises:
        DataError: See `read_table`.
        LimbeckError: If no target is set.
    """
    if options.target is None:
        raise LimbeckError(
            f"target= is missing: which column of {name} has the targets (classes, numbers or labels)? "
            "On the command line: --set data.target=COLUMN. For a table of texts also --set data.text=COLUMN."
        )
    form = TableForm(
        options.target.strip(), tuple(column.strip() for column in options.ignore), options.missing, options.separator,
        options.charset, options.class_names,
        TargetRequest(options.task, tuple(column.strip() for column in options.targets), options.delimiter),
    )  # fmt: skip
    groups = None if options.groups is None else options.groups.strip()
    others = {part: file for part, file in (("development", options.val), ("test", options.test)) if file is not None}
    fraction = HELD_OUT if options.test is None else None
    parts, encoding, report = _read_parts(name, form, groups=groups, others=others, fraction=fraction)
    if groups is not None and any(column.name == groups for column in encoding.columns):
        ignored = quote(f"data.ignore=[{','.join((*form.ignore, groups))}]")
        report.notes.append(
            f"The column {groups!r} of the groups is a feature too. If it should not be: --set {ignored}."
        )
    sources = {"train": Path(name).name, **{part: Path(file).name for part, file in others.items()}}
    if options.test is None:
        sources["test"] = held_out_source(sources["train"], by_class=encoding.targets is None)
    summary = summarize(
        "table", parts, sources=sources, columns=report.columns, notes=report.notes, warnings=report.warnings
    )
    return DataSplits(
        name, parts["train"], parts["test"], Identity(), encoding.class_names or None, encoding,
        "" if options.test else held_out_note(len(parts["test"]), by_class=encoding.targets is None),
        groups=None if groups is None else "groups",
        development=parts.get("development"), summary=summary, held_out=options.test is None,
        task=report.task.name, task_reason=report.task.why,
        target_names=() if encoding.targets is None else encoding.targets.names,
    )  # fmt: skip


def _read_parts(
    path: str | Path,
    form: TableForm,
    *,
    groups: str | None = None,
    others: Mapping[str, str | Path] | None = None,
    fraction: float | None = None,
    seed: int = 0,
) -> tuple[dict[str, ArrayDataset], TableEncoding, TableReport]:
    """Read a training table, and others with its encoding; with a `fraction`, hold out the test part."""
    report = TableReport()
    raw = form.load(path)
    table = TrainingTable(raw, form, report)
    rows: dict[str, Any] = {"train": slice(None)}
    if fraction is not None:
        whole = ArrayDataset(np.zeros((raw.table.num_rows, 1)), table.labels)
        rest, holdout = split(whole, fraction=fraction, seed=seed)
        rows = {"train": rest.index.numpy(), "test": holdout.index.numpy()}
    encoding = table.encoding(rows["train"], report)
    if "test" in rows:
        table.count_unknown(rows["test"], encoding, report)
    parts = {name: table.examples(index, encoding, _find_groups(raw, groups, name)) for name, index in rows.items()}
    for name, file in (others or {}).items():
        other = form.load(file)
        parts[name] = _encode_other_table(other, form, encoding, _find_groups(other, groups, name), report)
    return parts, encoding, report


def _find_groups(raw: RawTable, groups: str | None, part: str) -> str | None:
    """The column with the groups: the test part must have it, and other parts have it for routes to teachers."""
    return groups if part == "test" or groups in raw.names else None


def _encode_other_table(
    raw: RawTable, form: TableForm, encoding: TableEncoding, groups: str | None, report: TableReport
) -> ArrayDataset:
    """Encode another table like the training part."""
    # A table for prediction need not have the target column.
    columns_of_targets = (form.target,) if encoding.targets is None else encoding.targets.columns
    labeled = all(column in raw.names for column in columns_of_targets)
    check_columns(raw.path, [*([groups] if groups else []), *(one.name for one in encoding.columns)], raw.names)
    if encoding.target != form.target:
        raise DataError(f"target={form.target!r} is not the target of the encoding, {encoding.target!r}.")
    missing = tuple(form.missing) or encoding.missing
    report.notes += [*trimmed_note(raw), *_unread_note(raw, form, encoding, groups, report)]
    columns = [encode_known(raw, column, missing, report.notes, report.warnings) for column in encoding.columns]
    labels = np.full(raw.table.num_rows, IGNORED)
    if encoding.targets is not None:
        unknown = np.full((len(labels), len(encoding.targets.names)), np.nan)
        labels = read_targets(encoding.targets, raw, missing, report.notes) if labeled else unknown
    elif labeled:
        classes, notes = read_target(raw, form.target, missing=missing)
        report.notes += [one for one in notes if one.endswith("counts as no label.")]
        where = f"in column {form.target!r}"
        labels, mapped = encode_classes(classes, encoding.class_names, file=raw.path, where=where)
        report.notes += mapped
    return make_dataset(np.stack(columns, 1), labels, encoding, read_groups(raw, groups))


def _unread_note(
    raw: RawTable, form: TableForm, encoding: TableEncoding, groups: str | None, report: TableReport
) -> list[str]:
    """A note about columns that are not in the training table; an empty list if there are none."""
    expected_names = {
        form.target,
        *form.request.columns,
        groups,
        *form.ignore,
        *(column.name for column in (*encoding.columns, *report.columns)),
    }
    extra_columns = [name for name in raw.names if name not in expected_names]
    if not extra_columns or not report.columns:
        return []
    named = ", ".join(map(repr, extra_columns[:6])) + (", ..." if len(extra_columns) > 6 else "")
    return [f"{raw.path.name}: {len(extra_columns)} columns that are not in the training table are left out ({named})."]
