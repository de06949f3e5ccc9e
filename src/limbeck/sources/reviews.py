"""How are files of labelled texts read, and which are known by name?"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.errors import DataError, nearest
from limbeck.sources.published import data_folders


class Rows(NamedTuple):
    """Texts and what each was labelled with.

    Attributes:
        texts: The texts.
        labels: The class of each, as a text; None where it has none. Of a set known by name, class indices.
        notes: What was converted, in sentences.
        source: The file.
    """

    texts: list[str]
    labels: list[Any]
    notes: list[str]
    source: str


NAMED = {"sst2": "glue", "sst2_sentences": "sent"}
"""The Stanford Sentiment Treebank in two classes: GLUE's phrases (67,349 to train), or whole sentences (6,920)."""
CLASS_NAMES = ("negative", "positive")


def read_named(name: str, folder: str | Path | None = None) -> tuple[Rows, Rows, str]:
    """The training and the test part of a set that is known by name, and a note on where they come from.

    Looked for as ``sst2/glue_train.jsonl.gz`` and so on in `folder`; without one, in the folder that ``LIMBECK_DATA``
    names, then in ``./data``.

    Raises:
        DataError: If they are nowhere, saying what to put where.
    """
    form = NAMED[name]
    places = data_folders(folder)
    for place in places:
        files = [place / "sst2" / f"{form}_{part}.jsonl.gz" for part in ("train", "test")]
        if all(file.is_file() for file in files):
            train, test = (_numbered(read_rows(file, text="text", target="label")) for file in files)
            note = f"SST-2, {form}_train and {form}_test: {len(train.texts)} + {len(test.texts)} texts"
            return train, test, note + "; the published development part is not used"
    raise DataError(
        f"{name} is not on this machine: put {form}_train.jsonl.gz and {form}_test.jsonl.gz into {places[0]}/sst2/ (or "
        'set LIMBECK_DATA to the folder that holds sst2/), rows of {"text": ..., "label": 0 or 1}.'
    )


def read_rows(path: str | Path, *, text: str, target: str, charset: str | None = None) -> Rows:
    """Lines of JSON, each with a text and a label; ``.gz`` is unpacked.

    A text that is a number becomes its digits, and how many did is said; labels become texts, 1.0 and 1 the same one,
    without spaces around them. A line without a label, or with null, has none, and how many have none is said.

    Raises:
        DataError: If the file is missing or damaged, a line lacks a text, all lack a label, or one is of another kind.
    """
    path, encoding = Path(path), charset or "utf-8-sig"
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    found, numbers = Rows([], [], [], str(path)), 0
    without, bare = list[tuple[int, Any]](), set[str]()
    try:
        with (
            gzip.open(path, "rt", encoding=encoding) if path.suffix == ".gz" else open(path, encoding=encoding) as lines
        ):
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    row = json.loads(line)
                    _check_object(row, path, number)
                    one = _entry(row, text, path, number)
                    numbers += not isinstance(one, str)
                    found.texts.append(_text(one, text, path, number))
                    label = _bare(row.get(target), bare)
                    without += [(number, row)] if label in (None, "") else []
                    found.labels.append(None if label in (None, "") else _label(label, target, path, number))
    except UnicodeDecodeError as error:
        if _begins_in_utf16(path):
            raise DataError(f"{path} begins as a file in UTF-16 does: type --set data.charset=utf-16.") from error
        raise DataError(
            f"{path} is not written in {encoding.removesuffix('-sig')} ({error.reason}); if it is in Windows-1252, "
            "type --set data.charset=cp1252."
        ) from error
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise DataError(f"{path} is damaged: it is not lines of JSON ({error}).") from error
    if not found.texts:
        raise DataError(f"{path} holds no line.")
    if numbers == len(found.texts):
        raise DataError(
            f"{path}: {text!r} holds a number in every line, such as {found.texts[0]}, no texts. Say which columns to "
            "read: text=COLUMN, target=COLUMN."
        )
    if len(without) == len(found.texts):
        _entry(without[0][1], target, path, without[0][0])
    if without:
        found.notes.append(f"{path.name}: {len(without):,} of {len(found.texts):,} lines have no label {target!r}.")
    if bare:
        found.notes.append(
            f"{path.name}: spaces around labels were removed ({', '.join(map(repr, sorted(bare)[:4]))})."
        )
    if numbers:
        found.notes.append(
            f"{path.name}: {numbers:,} of {len(found.texts):,} texts are numbers, and are read as their digits."
        )
    return found


def _check_object(row: Any, path: Path, number: int) -> None:
    if not isinstance(row, Mapping):
        whole = " Is the file one list? Write each entry on a line of its own." if isinstance(row, list) else ""
        raise DataError(
            f'{path}, line {number}, holds a {type(row).__name__} and no object {{"text": ..., "label": ...}}.{whole}'
        )


def _bare(label: Any, bare: set[str]) -> Any:
    """A label without spaces around it; one that had some is added to `bare`."""
    if not isinstance(label, str) or label == label.strip():
        return label
    bare.add(label)
    return label.strip()


def _begins_in_utf16(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) in (b"\xff\xfe", b"\xfe\xff")


def _numbered(rows: Rows) -> Rows:
    """The rows with labels that are class indices, as in the sets that are known by name."""
    known = set(map(str, range(len(CLASS_NAMES))))
    if strange := [one for one in rows.labels if one not in known]:
        raise DataError(f"{rows.source} has the label {strange[0]!r}, where 0 is negative and 1 is positive.")
    return rows._replace(labels=[int(one) for one in rows.labels])


def _text(value: Any, key: str, path: Path, number: int) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise DataError(
            f"{path}, line {number}: {key!r} is {str(value)[:40]!r}, a {type(value).__name__} and no text. Say which "
            "columns to read: text=COLUMN, target=COLUMN."
        )
    return _characters(str(value), key, path, number)


def _characters(text: str, key: str, path: Path, number: int) -> str:
    """Refuse half of a character: JSON can escape one, and no tokenizer and no file takes it."""
    if any("\ud800" <= one <= "\udfff" for one in text):
        raise DataError(
            f"{path}, line {number}: {key!r} holds {ascii(text)[:60]}, in which a character is only half there (a lone "
            "surrogate). Mend or remove the line."
        )
    return text


def _label(value: Any, key: str, path: Path, number: int) -> str:
    whole = isinstance(value, float) and math.isfinite(value) and value.is_integer()
    if (isinstance(value, float) and not whole) or not isinstance(value, (str, int, float)) or value == "":
        raise DataError(
            f"{path}, line {number}: the label {key!r} is {value!r}, no class; give texts or whole numbers. One number "
            "for each class, or a quantity, is a target for Python: see limbeck.distill."
        )
    return _characters(str(int(value)) if whole else str(value), key, path, number)


def _entry(row: Any, key: str, path: Path, number: int) -> Any:
    if isinstance(row, Mapping) and row.get(key) is not None:
        return row[key]
    known = list(row) if isinstance(row, Mapping) else []
    near = None if key in known else nearest(key, known)
    meant = f" Did you mean {near!r}?" if near else ""
    raise DataError(
        f"{path}, line {number}, has no {key!r}.{meant} It has: {', '.join(map(str, known)) or 'no keys'}. Say which "
        "columns to read: text=COLUMN, target=COLUMN."
    )
