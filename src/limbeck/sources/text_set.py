"""How do files of labelled texts become a training and a test part?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from limbeck.errors import DataError, LimbeckError
from limbeck.sources.examples import Examples, split
from limbeck.sources.reviews import CLASS_NAMES, NAMED, Rows, read_named, read_rows
from limbeck.sources.texts import Texts
from limbeck.sources.tokenizer import open_tokenizer, train_tokenizer

VOCABULARY = 8000
MAX_LENGTH = 64


def load_texts(
    name: str,
    *,
    folder: str | Path | None = None,
    test: str | Path | None = None,
    text: str | None = None,
    target: str | None = None,
    tokenizer: str | Path | None = None,
    vocabulary: int | None = None,
    max_length: int | None = None,
    held_out: float = 0.2,
) -> tuple[Examples, Examples, Any, str]:
    """Training part, test part, their tokenizer, and a note: of a set known by name, or of a file of JSON lines.

    A tokenizer is trained from the texts of the training part alone, unless a folder holds one.

    Args:
        name: ``sst2``, ``sst2_sentences``, or a file.
        folder: In which a set known by name is looked for.
        test: A second file; without one, `held_out` of the examples are, stratified, with seed 0, and the note is "".
        text: The column of texts in a file, ``text`` by default.
        target: Its column of labels, ``label`` by default.
        tokenizer: A folder that ``save_pretrained`` wrote.
        vocabulary: How many pieces a tokenizer that is trained has at most.
        max_length: How many tokens a text may have.
        held_out: What becomes the test part of a file.

    Raises:
        DataError: If the data are missing or damaged, or a label of the test part is none of the training part.
        LimbeckError: If both a tokenizer and a vocabulary are given, or the extra ``hf`` is not installed.
    """
    if tokenizer is not None and vocabulary is not None:
        raise LimbeckError(
            f"vocabulary={vocabulary} is for a tokenizer that is trained from the texts; the one in {tokenizer} has "
            "its own. Leave one of the two out."
        )
    columns = {"text": text or "text", "target": target or "label"}
    if name in NAMED:
        train, held, note = read_named(name, folder)
        apart: Rows | None = held
        names: tuple[str, ...] = CLASS_NAMES
    else:
        train = read_rows(name, **columns)
        apart = None if test is None else read_rows(test, **columns)
        note = "" if apart is None else f"{len(train.texts)} + {len(apart.texts)} texts"
        names = tuple(sorted({str(label) for label in train.labels}))
    used = open_tokenizer(tokenizer) if tokenizer else None
    most = min(max_length or MAX_LENGTH, getattr(used, "model_max_length", None) or max_length or MAX_LENGTH)
    used = used or train_tokenizer(train.texts, vocabulary=vocabulary or VOCABULARY)
    used.model_max_length = most  # who opens it later cuts texts as they are cut here
    whole = _examples(train, names, used, most, name in NAMED)
    if apart is None:
        return *split(whole, fraction=held_out, seed=0), used, note
    return whole, _examples(apart, names, used, most, name in NAMED), used, note


def _examples(rows: Rows, names: tuple[str, ...], tokenizer: Any, max_length: int, numbered: bool) -> Texts:
    labels = rows.labels if numbered else _numbers(rows.labels, names)
    return Texts(rows.texts, labels, tokenizer=tokenizer, max_length=max_length, class_names=names)


def _numbers(labels: list[Any], names: tuple[str, ...]) -> list[int]:
    known = {name: number for number, name in enumerate(names)}
    for label in labels:
        if str(label) not in known:
            raise DataError(
                f"The test part has the label {label!r}, which the training part lacks: {', '.join(names)}."
            )
    return [known[str(label)] for label in labels]
