"""Files of labeled texts, JSON lines or the columns of a table, as a training, a development and a test part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.errors import LimbeckError
from limbeck.signal import IGNORED
from limbeck.sources.class_order import in_order, sorted_classes
from limbeck.sources.examples import Examples, split
from limbeck.sources.matching import match_names
from limbeck.sources.options import DataOptions
from limbeck.sources.reviews import CLASS_NAMES, NAMED, Rows, read_named, read_rows
from limbeck.sources.summary import DataSummary, summarize
from limbeck.sources.texts import Texts
from limbeck.sources.tokenizer import open_tokenizer, train_tokenizer

VOCABULARY = 8000
MAX_LENGTH = 64
_MANY_CUT = 0.05  # of the training texts: above, a limit that nobody chose is likely too short


class TextParts(NamedTuple):
    """Texts that were read and cut into tokens alike.

    Attributes:
        train: The training part.
        development: The development part, where there is a file for it.
        test: The test part.
        tokenizer: What cut them.
        note: Where they come from.
        summary: What was read.
    """

    train: Examples
    development: Examples | None
    test: Examples
    tokenizer: Any
    note: str
    summary: DataSummary


def load_texts(name: str, options: DataOptions, *, held_out: float = 0.2) -> TextParts:
    """A set of texts known by name, a file of JSON lines, or two columns of a table.

    A tokenizer is trained from the texts of the training part alone, unless a folder holds one. Classes that are
    numbers are numbered in their own order, others by their sorted names, or as ``class_names`` says.

    Args:
        name: ``sst2``, ``sst2_sentences``, or a file.
        options: Which columns and files, and how long a text may be.
        held_out: What becomes the test part of a file where no file is given for it: stratified, with seed 0.

    Raises:
        DataError: If the data are missing or damaged, or a label of another part is none of the training part.
        LimbeckError: If both a tokenizer and a vocabulary are given, or the extra ``hf`` is not installed.
    """
    if options.tokenizer is not None and options.vocabulary is not None:
        raise LimbeckError(
            f"vocabulary={options.vocabulary} is for a tokenizer that is trained from the texts; the one in "
            f"{options.tokenizer} has its own. Leave one of the two out."
        )
    rows, note = _rows(name, options)
    names = CLASS_NAMES if name in NAMED else _class_names(rows["train"], options.class_names, who=name)
    notes = list(dict.fromkeys(sentence for part in rows.values() for sentence in part.notes))
    labels = {part: _numbers(found, names, notes) for part, found in rows.items()} if name not in NAMED else {}
    used = open_tokenizer(options.tokenizer) if options.tokenizer else None
    asked = options.max_length or MAX_LENGTH
    most = min(asked, getattr(used, "model_max_length", None) or asked)
    used = used or train_tokenizer(rows["train"].texts, vocabulary=options.vocabulary or VOCABULARY)
    used.model_max_length = most  # who opens it later cuts texts as they are cut here
    whole = {
        part: Texts(
            found.texts, labels.get(part, found.labels), tokenizer=used, max_length=most, class_names=names
        )
        for part, found in rows.items()
    }  # fmt: skip
    parts: dict[str, Examples] = dict(whole)
    sources = {part: Path(found.source).name for part, found in rows.items() if found.source}
    if "test" not in parts:
        parts["train"], parts["test"] = split(whole["train"], fraction=held_out, seed=0)
        sources["test"] = f"held out of {sources['train']}: {held_out:.0%}, stratified, with seed 0"
    notes, warnings = _of_cut(whole, most, notes, chosen=options.max_length is not None)
    pieces = f"at most {most}; the vocabulary has {len(used):,}"
    summary = summarize(
        "texts", parts, sources=sources, facts={"tokens": pieces}, notes=notes, warnings=warnings
    )  # fmt: skip
    return TextParts(parts["train"], parts.get("development"), parts["test"], used, note, summary)


def _rows(name: str, options: DataOptions) -> tuple[dict[str, Rows], str]:
    """The rows of each part, training first, and where they come from."""
    if name in NAMED:
        train, held, note = read_named(name, options.folder)
        return {"train": train, "test": held}, note
    files = {"train": name, "development": options.val, "test": options.test}
    rows = {part: _read(file, options) for part, file in files.items() if file is not None}
    note = f"{len(rows['train'].texts)} + {len(rows['test'].texts)} texts" if "test" in rows else ""
    return rows, note


def _read(file: str, options: DataOptions) -> Rows:
    from limbeck.sources.arrow import is_table
    from limbeck.sources.text_table import read_text_table

    columns = {"text": options.text or "text", "target": options.target or "label"}
    if is_table(Path(file)):
        return read_text_table(file, options, **columns)
    return read_rows(file, charset=options.charset, **columns)


def _class_names(rows: Rows, wanted: Sequence[str], *, who: str) -> tuple[str, ...]:
    return in_order(sorted_classes(label for label in rows.labels if label is not None), wanted, who=who)


def _numbers(rows: Rows, names: tuple[str, ...], notes: list[str]) -> list[int]:
    """The number of each label; what is written otherwise than in the training part is matched, and that is said."""
    from limbeck.errors import DataError

    matched = match_names(dict.fromkeys(label for label in rows.labels if label is not None), names)
    moved = [f"{label!r} as {known!r}" for label, known in matched.items() if label != known]
    if moved:
        notes.append(
            f"{Path(rows.source).name}: the label {', '.join(moved[:4])} was read, as the training part writes it."
        )
    places = {name: place for place, name in enumerate(names)}
    found = list[int]()
    for label in rows.labels:
        if label is not None and label not in matched:
            raise DataError(
                f"{rows.source} has the label {label!r}, which the training part lacks: {', '.join(names[:12])}."
            )
        found.append(IGNORED if label is None else places[matched[label]])
    return found


def _of_cut(parts: dict[str, Texts], most: int, notes: list[str], *, chosen: bool) -> tuple[list[str], list[str]]:
    """How many texts of each part lost their end: a note, or a warning where nobody chose the limit."""
    warnings = list[str]()
    for name, part in parts.items():
        if part.cut:
            said = (
                f"{part.cut:,} of {len(part):,} texts ({part.cut / len(part):.0%}) of the {name} file are longer than "
                f"{most} tokens and are cut there; max_length={2 * most} keeps more (--set data.max_length={2 * most})."
            )  # fmt: skip
            (warnings if not chosen and part.cut >= _MANY_CUT * len(part) else notes).append(said)
    return notes, warnings
