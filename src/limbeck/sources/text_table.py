"""Two columns of a table, texts and labels, as rows of labeled texts."""

from __future__ import annotations

from pathlib import Path

from limbeck.errors import DataError
from limbeck.sources.arrow import check_columns, load_table
from limbeck.sources.inference import read_target
from limbeck.sources.options import DataOptions
from limbeck.sources.reviews import Rows


def read_text_table(file: str | Path, options: DataOptions, *, text: str, target: str) -> Rows:
    """The texts and labels of a CSV or Parquet file; a row without a text is an empty text, and that is counted.

    Args:
        file: The file.
        options: Its separator and charset, and what stands for a missing label.
        text: The column of texts.
        target: The column of labels.

    Raises:
        DataError: If it cannot be read, lacks a column, or the texts are none.
    """
    raw = load_table(Path(file), separator=options.separator, charset=options.charset)
    check_columns(raw.path, [text, target], raw.names)
    try:
        texts = raw.table[text].cast("string").to_pylist()
    except (TypeError, ValueError, NotImplementedError) as error:
        raise DataError(f"{file}: column {text!r} holds {raw.table.schema.field(text).type}, no texts.") from error
    labels, notes = read_target(raw, target, missing=options.missing)
    if empty := sum(one is None for one in texts):
        notes.append(f"{raw.path.name}: {empty:,} rows have an empty text.")
    if unlabeled := sum(one is None for one in labels):
        notes.append(f"{raw.path.name}: {unlabeled:,} rows have no label.")
    if empty == len(texts):
        raise DataError(f"{file}: column {text!r} has no text in any row.")
    return Rows([one or "" for one in texts], list(labels), notes, str(file))
