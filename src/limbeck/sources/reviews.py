"""How are files of labelled texts read, and which are known by name?"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.errors import DataError, nearest
from limbeck.sources.published import data_folders


class Rows(NamedTuple):
    """Texts and what each was labelled with."""

    texts: list[str]
    labels: list[Any]


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
            train, test = (read_rows(file, text="text", target="label") for file in files)
            note = f"SST-2, {form}_train and {form}_test: {len(train.texts)} + {len(test.texts)} texts"
            return train, test, note + "; the published development part is not used"
    raise DataError(
        f"{name} is not on this machine: put {form}_train.jsonl.gz and {form}_test.jsonl.gz into {places[0]}/sst2/ (or "
        'set LIMBECK_DATA to the folder that holds sst2/), rows of {"text": ..., "label": 0 or 1}.'
    )


def read_rows(path: str | Path, *, text: str, target: str) -> Rows:
    """Lines of JSON, each with a text and a label; ``.gz`` is unpacked.

    Raises:
        DataError: If the file is missing or damaged, or a line lacks one of the two.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    found = Rows([], [])
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    row = json.loads(line)
                    found.texts.append(_entry(row, text, path, number))
                    found.labels.append(_entry(row, target, path, number))
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path} is damaged: it is not lines of JSON ({error}).") from error
    if not found.texts:
        raise DataError(f"{path} holds no line.")
    return found


def _entry(row: Any, key: str, path: Path, number: int) -> Any:
    if isinstance(row, Mapping) and row.get(key) is not None:
        return row[key]
    known = list(row) if isinstance(row, Mapping) else []
    near = nearest(key, known)
    meant = f" Did you mean {near!r}?" if near else ""
    raise DataError(
        f"{path}, line {number}, has no {key!r}.{meant} It has: {', '.join(map(str, known)) or 'no keys'}. Say which "
        "columns to read: text=COLUMN, target=COLUMN."
    )
