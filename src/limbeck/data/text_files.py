"""Reads lines of text and JSON; loads labeled texts (JSON lines, tables, built-in datasets) as parts."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.data.arrow import check_columns, is_table, load_table
from limbeck.data.builtin_datasets import data_folders
from limbeck.data.column_types import read_target
from limbeck.data.name_matching import encode_classes, order_classes, sorted_classes
from limbeck.data.options import DataOptions
from limbeck.data.preprocess import Identity
from limbeck.data.splits import DataSplits, held_out_source, hold_out, summarize
from limbeck.data.texts import TextDataset
from limbeck.data.tokenizer import open_tokenizer, train_tokenizer
from limbeck.errors import DataError, LimbeckError, nearest


class LabeledTexts(NamedTuple):
    """Texts with their labels.

    Attributes:
        texts: The texts.
        labels: The class of each text as a string, None if it has none; class indices for a built-in dataset.
        notes: Notes about conversions.
        source: The file.
    """

    texts: list[str]
    labels: list[Any]
    notes: list[str]
    source: str


VOCABULARY = 8000
MAX_LENGTH = 64
_MANY_CUT = 0.05  # of the texts; if more are truncated by the default limit, a warning is issued
TEXT_DATASETS = {"sst2": "glue", "sst2_sentences": "sent"}

"""The Stanford Sentiment Treebank with two classes: GLUE's phrases (67,349 to train), or whole sentences (6,920)."""

CLASS_NAMES = ("negative", "positive")


def read_named_texts(name: str, folder: str | Path | None = None) -> tuple[LabeledTexts, LabeledTexts, str]:
    """Load the training and test part of a built-in dataset, and a note on their origin.

    The files ``sst2/glue_train.jsonl.gz`` and so on are searched in `folder`; without one, in the folder of the
    environment variable ``LIMBECK_DATA``, then in ``./data``.

    Raises:
        DataError: If the files are not available.
    """
    form = TEXT_DATASETS[name]
    folders = data_folders(folder)
    for directory in folders:
        files = [directory / "sst2" / f"{form}_{part}.jsonl.gz" for part in ("train", "test")]
        if all(file.is_file() for file in files):
            train, test = (
                _number_builtin_labels(read_labeled_texts(file, text="text", target="label")) for file in files
            )
            note = f"SST-2, {form}_train and {form}_test: {len(train.texts)} + {len(test.texts)} texts"
            return train, test, note + "; the published development part is not used"
    raise DataError(
        f"{name} is not on this machine: put {form}_train.jsonl.gz and {form}_test.jsonl.gz into {folders[0]}/sst2/, "
        'or set LIMBECK_DATA to the folder that contains sst2/. Each line is {"text": ..., "label": 0 or 1}.'
    )


def read_labeled_texts(path: str | Path, *, text: str, target: str, charset: str | None = None) -> LabeledTexts:
    """Read a file of JSON lines with a text and a label each; ``.gz`` is decompressed.

    Texts that are numbers are converted to strings. Labels are converted to strings without surrounding spaces; 1.0 and
    1 are the same label. A line may have no label or null. The notes have the number of lines for each of these cases.

    Raises:
        DataError: If the file is missing or damaged, a line has no text, no line has a label, or a value has an
            unsupported type.
    """
    path, encoding = Path(path), charset or "utf-8-sig"
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    rows, numbers = LabeledTexts([], [], [], str(path)), 0
    without, bare = list[tuple[int, Any]](), set[str]()
    try:
        with (
            gzip.open(path, "rt", encoding=encoding) if path.suffix == ".gz" else open(path, encoding=encoding) as lines
        ):
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    row = json.loads(line)
                    _check_object(row, path, number)
                    entry = _get_entry(row, text, path, number)
                    numbers += not isinstance(entry, str)
                    rows.texts.append(_check_text(entry, text, path, number))
                    label = _strip_label(row.get(target), bare)
                    without += [(number, row)] if label in (None, "") else []
                    rows.labels.append(None if label in (None, "") else _check_label(label, target, path, number))
    except UnicodeDecodeError as error:
        raise undecodable(path, encoding, error) from error
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise DataError(f"{path} is damaged or not a file of JSON lines: {error}.") from error
    if not rows.texts:
        raise DataError(f"{path} has no lines.")
    if numbers == len(rows.texts):
        raise DataError(
            f"{path}: {text!r} is a number in every line, such as {rows.texts[0]}. Set the "
            "columns to read: text=COLUMN, target=COLUMN."
        )
    if len(without) == len(rows.texts):
        _get_entry(without[0][1], target, path, without[0][0])
    if without:
        rows.notes.append(f"{path.name}: {len(without):,} of {len(rows.texts):,} lines have no label {target!r}.")
    if bare:
        rows.notes.append(f"{path.name}: spaces around labels were removed ({', '.join(map(repr, sorted(bare)[:4]))}).")
    if numbers:
        rows.notes.append(
            f"{path.name}: {numbers:,} of {len(rows.texts):,} texts are numbers, which are read as strings."
        )
    return rows


def _check_object(row: Any, path: Path, number: int) -> None:
    if not isinstance(row, Mapping):
        whole = " Is the file a single list? Write one entry per line." if isinstance(row, list) else ""
        raise DataError(
            f'{path}, line {number}, is a {type(row).__name__}, not an object {{"text": ..., "label": ...}}.{whole}'
        )


def _strip_label(label: Any, bare: set[str]) -> Any:
    """Strip spaces around a label; labels with spaces are added to `bare`."""
    if not isinstance(label, str) or label == label.strip():
        return label
    bare.add(label)
    return label.strip()


def undecodable(path: Path, encoding: str, error: UnicodeDecodeError) -> DataError:
    """The error for a file in another character encoding."""
    if _begins_in_utf16(path):
        return DataError(f"{path} looks like UTF-16: use --set data.charset=utf-16.")
    return DataError(
        f"{path} is not {encoding.removesuffix('-sig')} ({error.reason}). If it is Windows-1252, use "
        "--set data.charset=cp1252."
    )


def read_characters(path: Path, charset: str | None = None) -> str:
    """The text of a file, which may be compressed by gzip.

    Raises:
        DataError: If the file is damaged or no text.
    """
    encoding = charset or "utf-8-sig"
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged or no gzip file: {error}.") from error
    if b"\0" in raw and not encoding.startswith(("utf-16", "utf-32")) and raw[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path} is a binary file, no text: it holds null bytes, the first at byte {raw.index(0)}.")
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise undecodable(path, encoding, error) from error


def read_lines(path: Path, charset: str | None = None) -> Iterator[tuple[int, str]]:
    """The number, from 1, and the text of each line that is not blank.

    Raises:
        DataError: If the file is damaged or no text.
    """
    for number, line in enumerate(read_characters(path, charset).split("\n"), start=1):
        if line.strip():
            yield number, line.removesuffix("\r")


def read_json_rows(path: Path, charset: str | None = None) -> Iterator[tuple[int, Any]]:
    """The line number and the value of each line of JSON.

    Raises:
        DataError: If the file is damaged, or a line is no JSON.
    """
    for number, line in read_lines(path, charset):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}, is not JSON: {error}.") from error
        if "\\ud" in line.lower() and not _is_text(value):
            raise DataError(f"{path}, line {number}, has half a character (\\ud800 to \\udfff), which is no text.")
        yield number, value


def _is_text(value: Any) -> bool:
    """Whether all texts in a JSON value have whole characters: JSON can hold half a surrogate pair."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _begins_in_utf16(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) in (b"\xff\xfe", b"\xfe\xff")


def _number_builtin_labels(rows: LabeledTexts) -> LabeledTexts:
    """Convert the labels of a built-in dataset to class indices."""
    valid = set(map(str, range(len(CLASS_NAMES))))
    if strange := [label for label in rows.labels if label not in valid]:
        raise DataError(f"{rows.source} has the label {strange[0]!r}; labels must be 0 (negative) or 1 (positive).")
    return rows._replace(labels=[int(label) for label in rows.labels])


def _check_text(value: Any, key: str, path: Path, number: int) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise DataError(
            f"{path}, line {number}: {key!r} is {str(value)[:40]!r}, a {type(value).__name__}, not a text. Set "
            "the columns to read: text=COLUMN, target=COLUMN."
        )
    return _check_characters(str(value), key, path, number)


def _check_characters(text: str, key: str, path: Path, number: int) -> str:
    """Raise for lone surrogates, which JSON can contain but tokenizers and files cannot."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise DataError(
            f"{path}, line {number}: {key!r} is {ascii(text)[:60]}, which contains an invalid character (a lone "
            "surrogate). Fix or remove the line."
        )
    return text


def _check_label(value: Any, key: str, path: Path, number: int) -> str:
    whole = isinstance(value, float) and math.isfinite(value) and value.is_integer()
    if (isinstance(value, float) and not whole) or not isinstance(value, (str, int, float)) or value == "":
        raise DataError(
            f"{path}, line {number}: the label {key!r} is {value!r}, which is not a class. Use strings or whole "
            "numbers. For class probabilities or regression use limbeck.distill in Python."
        )
    return _check_characters(str(int(value)) if whole else str(value), key, path, number)


def _get_entry(row: Any, key: str, path: Path, number: int) -> Any:
    if isinstance(row, Mapping) and row.get(key) is not None:
        return row[key]
    keys = list(row) if isinstance(row, Mapping) else []
    near = None if key in keys else nearest(key, keys)
    suggestion = f" Did you mean {near!r}?" if near else ""
    raise DataError(
        f"{path}, line {number}, has no {key!r}.{suggestion} It has: {', '.join(map(str, keys)) or 'no keys'}. Set "
        "the columns to read: text=COLUMN, target=COLUMN."
    )


def read_text_table(file: str | Path, options: DataOptions, *, text: str, target: str) -> LabeledTexts:
    """Read texts and labels from a CSV or Parquet file; a missing text becomes an empty string.

    Args:
        file: The file.
        options: Separator, charset and the values that mean a missing label.
        text: The column with the texts.
        target: The column with the labels.

    Raises:
        DataError: If the file cannot be read, lacks a column, or has no texts.
    """
    raw = load_table(Path(file), separator=options.separator, charset=options.charset)
    check_columns(raw.path, [text, target], raw.names)
    try:
        texts = raw.table[text].cast("string").to_pylist()
    except (TypeError, ValueError, NotImplementedError) as error:
        raise DataError(
            f"{file}: column {text!r} has the type {raw.table.schema.field(text).type}, not strings."
        ) from error
    labels, notes = read_target(raw, target, missing=options.missing)
    if empty := sum(row_text is None for row_text in texts):
        notes.append(f"{raw.path.name}: {empty:,} rows have an empty text.")
    if unlabeled := sum(row_text is None for row_text in labels):
        notes.append(f"{raw.path.name}: {unlabeled:,} rows have no label.")
    if empty == len(texts):
        raise DataError(f"{file}: column {text!r} has no text in any row.")
    return LabeledTexts([row_text or "" for row_text in texts], list(labels), notes, str(file))


def load_texts(name: str, options: DataOptions) -> DataSplits:
    """Load a built-in dataset of texts, a file of JSON lines, or two columns of a table.

    A tokenizer is trained on the training part only, unless the options have a tokenizer folder. Classes are sorted,
    numbers by value and names alphabetically, unless ``class_names`` sets the order.

    Raises:
        DataError: If the data are missing or damaged, or a label of another part is not in the training part.
        LimbeckError: If both a tokenizer and a vocabulary are set, or the extra ``hf`` is not installed.
    """
    if options.tokenizer is not None and options.vocabulary is not None:
        raise LimbeckError(
            f"vocabulary={options.vocabulary} applies to a new tokenizer trained on the texts, but tokenizer="
            f"{options.tokenizer} is set too. Leave one of the two out."
        )
    rows, note = _read_parts(name, options)
    builtin = name in TEXT_DATASETS
    names = CLASS_NAMES if builtin else _class_names(rows["train"], options.class_names, who=name)
    notes = list(dict.fromkeys(sentence for part in rows.values() for sentence in part.notes))
    labels: dict[str, Any] = {part: texts.labels for part, texts in rows.items()}
    if not builtin:
        for part, texts in rows.items():
            labels[part], moved = encode_classes(texts.labels, names, file=texts.source, where="in the labels")
            notes += moved
    tokenizer, most = _prepare_tokenizer(rows["train"].texts, options)
    whole = {
        part: TextDataset(texts.texts, labels[part], tokenizer=tokenizer, max_length=most, class_names=names)
        for part, texts in rows.items()
    }
    notes, warnings = _cut_notes(whole, most, notes, chosen=options.max_length is not None)
    train, test, held_out = hold_out(whole["train"], whole.get("test"))
    sources = {part: Path(texts.source).name for part, texts in rows.items() if texts.source}
    if held_out:
        sources["test"] = held_out_source(sources["train"])
    parts = {"train": train, "development": whole.get("development"), "test": test}
    facts = {"tokens": f"at most {most}; the vocabulary has {len(tokenizer):,}"}
    return DataSplits(
        name, train, test, Identity(), names, note=note or held_out, tokenizer=tokenizer,
        development=whole.get("development"), held_out=bool(held_out),
        summary=summarize("texts", parts, sources=sources, facts=facts, notes=notes, warnings=warnings),
    )  # fmt: skip


def _prepare_tokenizer(texts: Sequence[str], options: DataOptions) -> tuple[Any, int]:
    """Open or train the tokenizer; also returns the maximum number of tokens of a text."""
    limit = options.max_length or MAX_LENGTH
    if options.tokenizer is None:
        tokenizer, most = train_tokenizer(texts, vocabulary=options.vocabulary or VOCABULARY), limit
    else:
        tokenizer = open_tokenizer(options.tokenizer)
        most = min(limit, tokenizer.model_max_length or limit)
    tokenizer.model_max_length = most  # saved with the tokenizer, so that later use truncates texts in the same way
    return tokenizer, most


def _read_parts(name: str, options: DataOptions) -> tuple[dict[str, LabeledTexts], str]:
    """Read the rows of each part, training part first, and return them with a note on their origin."""
    if name in TEXT_DATASETS:
        train, test, note = read_named_texts(name, options.folder)
        return {"train": train, "test": test}, note
    files = {"train": name, "development": options.val, "test": options.test}
    rows = {part: _read_file(file, options) for part, file in files.items() if file is not None}
    note = f"{len(rows['train'].texts)} + {len(rows['test'].texts)} texts" if "test" in rows else ""
    return rows, note


def _read_file(file: str, options: DataOptions) -> LabeledTexts:
    columns = {"text": options.text or "text", "target": options.target or "label"}
    if is_table(Path(file)):
        return read_text_table(file, options, **columns)
    return read_labeled_texts(file, charset=options.charset, **columns)


def _class_names(rows: LabeledTexts, order: Sequence[str], *, who: str) -> tuple[str, ...]:
    return order_classes(sorted_classes(label for label in rows.labels if label is not None), order, who=who)


def _cut_notes(
    parts: dict[str, TextDataset], most: int, notes: list[str], *, chosen: bool
) -> tuple[list[str], list[str]]:
    """Notes about truncated texts; warnings if there are many and the limit is the default."""
    warnings = list[str]()
    for name, part in parts.items():
        if part.cut:
            message = (
                f"{part.cut:,} of {len(part):,} texts ({part.cut / len(part):.0%}) of the {name} file are longer than "
                f"{most} tokens and are truncated; to raise the limit, use max_length={2 * most}."
            )  # fmt: skip
            (warnings if not chosen and part.cut >= _MANY_CUT * len(part) else notes).append(message)
    return notes, warnings
