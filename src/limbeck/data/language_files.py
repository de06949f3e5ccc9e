"""Loads texts for language models (text files, JSON lines, folders of parts), split by text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from limbeck.data.builtin_datasets import data_folders
from limbeck.data.files import check_file
from limbeck.data.options import DataOptions
from limbeck.data.preprocess import Identity
from limbeck.data.splits import HELD_OUT, DataSplits, DataSummary, PartSummary, held_out_source
from limbeck.data.text_files import VOCABULARY, read_characters, read_json_rows
from limbeck.data.token_dataset import TokenDataset
from limbeck.data.token_pairs import TokenData, TokenPairDataset, split_texts
from limbeck.data.tokenized_texts import CUT_OFF, tokenize_texts
from limbeck.data.tokenizer import open_tokenizer, train_byte_level_tokenizer
from limbeck.errors import DataError, LimbeckError

LANGUAGE_MODELING = "language_modeling"
LANGUAGE_DATASETS = {"tinyshakespeare": "tinyshakespeare/input.txt.gz"}
"""Texts by name: all plays of Shakespeare, 1.1 MB, one speech between two blank lines."""
LANGUAGE_OPTIONS = (
    "text", "prompt", "completion", "max_new_tokens", "encoder_decoder", "test", "val", "charset", "tokenizer",
    "vocabulary", "max_length", "overlap", "packing", "padding_side", "too_long", "add_eos_token",
    "completion_only_loss", "sample_by", "cache_dir",
)  # fmt: skip
MAX_WINDOW = 256
"""The default number of tokens that a model reads at a time."""
_OF_WINDOWS = ("overlap", "packing", "padding_side", "completion_only_loss")
_MANY_SHARED = 0.01  # share of a part's texts; a note is added if at least so many are training texts too
_LABELS = ("label", "labels", "target")
_TOKENIZED = ("input_ids", "labels")
_CHAT = "messages"
_ANSWERS = ("answer", "response", "output", "chosen", "solution")  # other names of completions, most common first


class Corpus(NamedTuple):
    """The texts of one file.

    Attributes:
        rows: ``{"text"}``, ``{"prompt", "completion"}`` or ``{"messages"}``.
        lines: The line on which each begins, from 1.
        source: The file.
        form: How the file is read, in words.
    """

    rows: list[dict[str, Any]]
    lines: list[int]
    source: Path
    form: str


def is_text_file(path: Path) -> bool:
    """Whether a file's name ends in ``.txt`` or ``.txt.gz``."""
    return path.name.lower().endswith((".txt", ".txt.gz"))


def holds_language_rows(path: Path, options: DataOptions) -> bool:
    """Whether the first row of a file of JSON lines is for a language model and has no label.

    Rows with a prompt, or with messages, are. A row with a text and nothing else is, too, and so is every row if the
    column of the prompts or of the answers is named.
    """
    if options.target is not None or not path.is_file():
        return False
    if options.prompt is not None or options.completion is not None:
        return True
    try:
        row = next(read_json_rows(path, options.charset), (0, None))[1]
    except DataError:
        return False  # the reader that is found in the end has the sentence for it
    if not isinstance(row, Mapping) or (set(row) & set(_LABELS) and "input_ids" not in row):
        return False
    prompted = "prompt" in row and options.text is None
    return _CHAT in row or prompted or set(row) == {options.text or "text"} or "input_ids" in row


def holds_prompts_alone(path: Path, options: DataOptions) -> bool:
    """Whether the first row of a file of JSON lines has a prompt, or the question of a chat, and no answer.

    Columns with usual names of answers or labels are answers. Columns with other names are not: `data.completion` names
    them if they are.
    """
    if not path.is_file() or is_text_file(path) or options.completion is not None or options.target is not None:
        return False
    try:
        row = next(read_json_rows(path, options.charset), (0, None))[1]
    except DataError:
        return False  # the reader has the sentence for it
    if not isinstance(row, Mapping):
        return False
    prompt, messages = options.prompt or "prompt", row.get(_CHAT)
    if isinstance(messages, list) and row.get(prompt) is None:
        roles = [one.get("role") for one in messages if isinstance(one, Mapping)]
        return len(roles) == len(messages) > 0 and "assistant" not in roles
    answers = ("completion", *_ANSWERS, *_LABELS)
    return isinstance(row.get(prompt), str) and all(row.get(name) is None for name in answers)


def load_corpus(name: str, options: DataOptions) -> DataSplits:
    """Load a text file or a file of JSON lines as windows of tokens.

    Parts that have no file are taken out of the training file, text by text: windows of one text never lie in two
    parts.

    Args:
        name: The training file.
        options: The data options (`LANGUAGE_OPTIONS`).

    Raises:
        DataError: If a file is empty, no text, or damaged, a row has the wrong form, or there is one text only.
        LimbeckError: If an option is out of range, or the tokenizer does not fit.
    """
    if options.tokenizer is not None and options.vocabulary is not None:
        raise LimbeckError(
            f"vocabulary={options.vocabulary} applies to a new tokenizer trained on the texts, but tokenizer="
            f"{options.tokenizer} is set too. Leave one of the two out."
        )
    if options.max_new_tokens is not None:
        raise LimbeckError(
            "data.max_new_tokens is about prompts without answers, which the teacher of a job answers, and these texts "
            "are complete: leave it out."
        )
    file = _find_dataset(name, options.folder) if name in LANGUAGE_DATASETS else name
    files = {"train": file, "development": options.val, "test": options.test}
    parts = {part: read_corpus(Path(file), options) for part, file in files.items() if file is not None}
    train = parts["train"]
    if "test" not in parts and len(train.rows) < 2:
        raise _one_text(train)
    tokenizer = _prepare_tokenizer(train, options)
    data = {part: _window(corpus, tokenizer, options) for part, corpus in parts.items()}
    sources = {part: corpus.source.name for part, corpus in parts.items()}
    held_out = "test" not in parts
    if held_out:
        data["train"], data["test"] = split_texts(data["train"], fraction=HELD_OUT, seed=0)
        sources["test"] = held_out_source(sources["train"], by_class=False)
    summary = _summarize(data, sources, parts, tokenizer, options)
    return DataSplits(
        name, data["train"], data["test"], Identity(), None, tokenizer=tokenizer,
        development=data.get("development"), held_out=held_out, summary=summary,
        task=LANGUAGE_MODELING, task_reason="" if options.task else f"{train.form}, without labels",
    )  # fmt: skip


def _find_dataset(name: str, folder: str | None) -> str:
    folders = data_folders(folder)
    file = next((found for place in folders if (found := place / LANGUAGE_DATASETS[name]).is_file()), None)
    if file is None:
        raise DataError(
            f"{name} is not on this machine: put {LANGUAGE_DATASETS[name]} into {folders[0]}, or set LIMBECK_DATA to "
            f"the folder that contains {name}/."
        )
    return str(file)


def read_corpus(path: Path, options: DataOptions) -> Corpus:
    """Read the texts of a file.

    Raises:
        DataError: If the file is missing, empty, no text or damaged, or a row has the wrong form.
    """
    check_file(path)
    if is_text_file(path):
        return _read_plain(path, options)
    if options.sample_by is not None:
        raise LimbeckError(f"sample_by={options.sample_by} is for .txt files; each line of {path.name} is one text.")
    return _read_rows(path, options)


def _read_plain(path: Path, options: DataOptions) -> Corpus:
    """The texts of a text file, and the line of each."""
    text = read_characters(path, options.charset).replace("\r\n", "\n")
    if not text.strip():
        raise DataError(f"{path} has no text: all of it is white space.")
    # Blank lines at the ends separate nothing.
    has_paragraphs = re.search(r"\n[ \t]*\n", text.strip()) is not None
    by = options.sample_by or ("paragraph" if has_paragraphs else "line")
    form = {
        "paragraph": "one text between two blank lines (sample_by=paragraph)",
        "line": "one text per line (sample_by=line)",
        "document": "one text in the file (sample_by=document)",
    }[by]
    pattern = {"paragraph": r"(?:[^\n]*\S[^\n]*(?:\n|\Z))+", "line": r"[^\n]*\S[^\n]*", "document": r"(?s:.+)"}[by]
    rows, lines, line, end = list[dict[str, Any]](), list[int](), 1, 0
    for match in re.finditer(pattern, text):
        line += text.count("\n", end, match.start())
        end = match.start()
        rows.append({"text": match[0] if by == "document" else match[0].rstrip("\n")})
        lines.append(line)
    return Corpus(rows, lines, path, form)


def _read_rows(path: Path, options: DataOptions) -> Corpus:
    """The rows of a file of JSON lines, all of one form."""
    rows, lines, form = list[dict[str, Any]](), list[int](), ""
    for number, value in read_json_rows(path, options.charset):
        row = _read_row(value, f"{path}, line {number},", options)
        own = " and ".join(key for key in row if key != CUT_OFF)
        if form and own != form:
            raise DataError(
                f"{path}, line {number}, has {own}, and line {lines[0]} has {form}: a file holds rows of one form. "
                "Write a file for each form."
            )
        form = own
        rows.append(row)
        lines.append(number)
    if not rows:
        raise DataError(f"{path} has no lines.")
    words = {"text": "one text per line", _CHAT: "one chat per line"}
    return Corpus(rows, lines, path, words.get(form, "a prompt and its completion per line"))


def _read_row(row: Any, where: str, options: DataOptions) -> dict[str, Any]:
    """A row with the names of `tokenize_texts`."""
    if not isinstance(row, Mapping):
        raise DataError(f'{where} is a {type(row).__name__}, not an object such as {{"text": ...}}.')
    if "input_ids" in row:
        named = " and ".join(name for name in _TOKENIZED if name in row)
        raise DataError(
            f"{where} has {named}: limbeck makes the tokens from texts and shifts the labels itself, by one token, so "
            "labels that are shifted already would be shifted twice. Give the texts."
        )
    if isinstance(row.get(_CHAT), list):
        return {_CHAT: row[_CHAT]}
    prompt, completion = options.prompt or "prompt", options.completion or "completion"
    pair = row.get(prompt) is not None or row.get(completion) is not None
    own = {"prompt": prompt, "completion": completion} if pair else {"text": options.text or "text"}
    for column in own.values():
        if row.get(column) is not None and not isinstance(row[column], str):
            raise DataError(f"{where} has {row[column]!r:.60} as {column!r}, and a text is needed: write it in quotes.")
        if row.get(column) is None:
            present = [repr(name) for name, value in row.items() if value is not None]
            raise DataError(
                f"{where} has no {column!r}; it has {', '.join(present) or 'nothing'}. "
                + _column_advice(row, prompt, column, own)
            )
    if not row[list(own.values())[-1]].strip():
        what = "answer" if pair else "text"
        raise DataError(
            f"{where} has an empty {what} {list(own.values())[-1]!r}, so there is nothing to learn: remove it."
        )
    # A text that a model did not end has no end that could be learned (`limbeck generate`).
    cut = {CUT_OFF: True} if pair and row.get("stop_reason") == "length" else {}
    return {**{name: row[column] for name, column in own.items()}, **cut}


def _column_advice(row: Mapping[str, Any], prompt: str, missing: str, columns: Mapping[str, str]) -> str:
    """What to type for a row that lacks a column."""
    if columns.get("completion") != missing:
        return (
            "A row has text, prompt and completion, or messages; data.text=COLUMN, data.prompt=COLUMN and "
            "data.completion=COLUMN name other columns."
        )
    texts = [name for name, value in row.items() if isinstance(value, str) and name not in (prompt, "id")]
    if texts:
        column = next((name for name in _ANSWERS if name in texts), texts[0] if len(texts) == 1 else "COLUMN")
        return f"Type --set data.completion={column} if the answers are there."
    return (
        "Add the answers, or let a teacher write them: limbeck generate. A job on prompts alone, with a trained "
        "teacher, does so by itself. In Python, limbeck.data.PromptDataset has prompts alone."
    )


def _one_text(corpus: Corpus) -> DataError:
    """The error for a file that cannot be split by text."""
    by_lines = "sample_by=line" in corpus.form
    way = ", or split it with --set data.sample_by=line" if is_text_file(corpus.source) and not by_lines else ""
    return DataError(
        f"{corpus.source} holds one text only ({corpus.form}), and a model must be judged on texts that it did not "
        f"learn: name others with --set data.test=FILE and data.val=FILE{way}."
    )


def _prepare_tokenizer(train: Corpus, options: DataOptions) -> Any:
    """Open the tokenizer, or train one; its end token also pads if it has no other."""
    if options.tokenizer is None:
        texts = (text for row in train.rows for text in _texts_of(row))
        return train_byte_level_tokenizer(
            texts, vocabulary=options.vocabulary or VOCABULARY, max_length=options.max_length or MAX_WINDOW
        )
    tokenizer = open_tokenizer(options.tokenizer)
    if tokenizer.eos_token_id is None and (options.add_eos_token is not False or tokenizer.pad_token_id is None):
        raise LimbeckError(
            f"The tokenizer {options.tokenizer} has no end token (eos_token), so a student would never learn to stop. "
            "Set tokenizer.eos_token and save it again with tokenizer.save_pretrained"
            + ("." if tokenizer.pad_token_id is None else ", or learn no ends: --set data.add_eos_token=false.")
        )
    if tokenizer.pad_token_id is None:  # labels are masked by position, so the end token may pad
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _texts_of(row: Mapping[str, Any]) -> Iterator[str]:
    if _CHAT in row:
        yield from (str(one.get("content", "")) for one in row[_CHAT] if isinstance(one, Mapping))
    else:
        yield "".join(value for value in row.values() if isinstance(value, str))


def _window(corpus: Corpus, tokenizer: Any, options: DataOptions) -> TokenData:
    """Tokenize the texts of a file and cut them into windows, or keep them as pairs."""
    ends = options.add_eos_token is not False
    if options.encoder_decoder:
        return _pair(corpus, tokenizer, options)
    tokens = tokenize_texts(
        corpus.rows, tokenizer, add_eos_token=ends, folder=options.cache_dir, where=partial(_line_of, corpus),
        completion_only_loss=options.completion_only_loss is not False,
    )  # fmt: skip
    return TokenDataset(
        tokens, max_length=options.max_length or min(MAX_WINDOW, tokenizer.model_max_length),
        overlap=options.overlap or 0, packing=bool(options.packing), padding_side=options.padding_side or "right",
        too_long=options.too_long or "error", where=partial(_line_of, corpus),
    )  # fmt: skip


def _pair(corpus: Corpus, tokenizer: Any, options: DataOptions) -> TokenPairDataset:
    """The pairs of a file, for an encoder-decoder."""
    if "prompt" not in corpus.rows[0]:
        raise DataError(
            f"{corpus.source} has {corpus.form}, and an encoder-decoder needs a prompt and a completion in each line."
        )
    for option in _OF_WINDOWS:
        if option in options.option_names:
            raise LimbeckError(f"data.{option} is about windows, and an encoder-decoder reads pairs: leave it out.")
    return TokenPairDataset(
        corpus.rows, tokenizer=tokenizer, max_length=options.max_length or min(MAX_WINDOW, tokenizer.model_max_length),
        too_long=options.too_long or "error", add_eos_token=options.add_eos_token is not False,
        folder=options.cache_dir, where=partial(_line_of, corpus),
    )  # fmt: skip


def _line_of(corpus: Corpus, number: int) -> str:
    """The place of a text in its file, for messages."""
    return f"{corpus.source}, line {corpus.lines[number]},"


def _summarize(
    data: Mapping[str, TokenData],
    sources: Mapping[str, str],
    parts: Mapping[str, Corpus],
    tokenizer: Any,
    options: DataOptions,
) -> DataSummary:
    order = [part for part in ("train", "development", "test") if part in data]
    summaries = tuple(PartSummary(part, len(data[part]), 0, (), _describe(data[part], sources[part])) for part in order)
    first, how = data["train"], list[str]()
    if isinstance(first, TokenDataset):
        how = ["packed" if first.packing else f"padded on the {first.padding_side}"]
        how += [f"{first.overlap} of them from the window before"] if first.overlap else []
    trained = "trained on these texts" if options.tokenizer is None else f"of {Path(options.tokenizer).name}"
    facts = {
        "texts": parts["train"].form,
        "windows": ", ".join([f"at most {first.max_length} tokens", *(how or ["on either side of a pair"])]),
        "tokenizer": f"{len(tokenizer):,} tokens, {trained}",
    }
    return DataSummary("language", summaries, facts=facts, notes=tuple(_shared_notes(data, parts)))


def _describe(part: TokenData, source: str) -> str:
    texts = part.text_numbers
    tokens = int(part.texts.lengths[texts].sum())
    return f"{len(texts):,} texts of {tokens:,} tokens, {source}"


def _shared_notes(data: Mapping[str, TokenData], parts: Mapping[str, Corpus]) -> Iterator[str]:
    """Notes about texts of the other parts that are training texts too, and about texts that were left out."""
    train = set(_keys(parts["train"].rows, data["train"].text_numbers))
    for name, part in data.items():
        rows = parts.get(name, parts["train"]).rows
        numbers = part.text_numbers
        same = sum(key in train for key in _keys(rows, numbers)) if name != "train" else 0
        if same > _MANY_SHARED * len(numbers):
            yield (
                f"{same:,} of {len(numbers):,} {name} texts are training texts too: results on them do not measure the "
                "quality on new texts."
            )
        left_out = len(part.texts) - len(numbers) if name in parts and (name != "train" or "test" in parts) else 0
        if left_out:
            yield f"{left_out:,} of {len(part.texts):,} {name} texts are too long, or have one token, and are left out."


def _keys(rows: Sequence[Any], numbers: Tensor) -> Iterator[str]:
    return (json.dumps(rows[number], sort_keys=True, default=str) for number in numbers.tolist())
