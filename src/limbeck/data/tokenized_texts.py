"""`TokenizedTexts`: texts, prompts with completions, or chats, tokenized once and read from a memory map."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from limbeck.atomic_io import new_partial_folder, replace_folder, write_bytes, write_text
from limbeck.data.dataset import hash_columns
from limbeck.data.tokenizer import check_tokenizer
from limbeck.errors import DataError, LimbeckError
from limbeck.models.vocabulary import hash_tokenizer

_SUMMARY = "tokens.json"
_COLUMNS = {"ids": torch.int32, "is_target": torch.bool, "starts": torch.int64}
CUT_OFF = "cut_off"
"""The key of a row whose text was not ended by its writer, so that no end token follows it."""
_ROWS = 10_000  # texts for each call of the tokenizer, which bounds memory


class _Parts(NamedTuple):
    """A text and the ranges of its characters that a model has to learn."""

    text: str
    target_ranges: tuple[tuple[int, int], ...]
    special: bool  # whether the tokenizer adds its special tokens; a chat template has written them already
    ends: bool = True  # whether an end token may follow


class _How(NamedTuple):
    """How texts are tokenized: the arguments of `tokenize_texts`."""

    tokenizer: Any
    add_eos_token: bool
    completion_only_loss: bool
    where: Callable[[int], str]


@final
class TokenizedTexts:
    """The tokens of texts, one after the other, and which of them a model has to predict.

    Args:
        ids: The tokens of all texts, int32.
        is_target: Which tokens a model has to predict: all of a plain text, those of the completion after a prompt,
            those of the assistant in a chat.
        starts: Where each text begins, with the end of the last one: ``[texts + 1]``.
        tokenizer: The tokenizer.

    """

    def __init__(
        self,
        ids: Int[Tensor, " tokens"],
        is_target: Bool[Tensor, " tokens"],
        starts: Int[Tensor, " n"],
        *,
        tokenizer: Any,
    ) -> None:
        self.ids, self.is_target, self.starts, self.tokenizer = ids, is_target, starts, tokenizer

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Int[Tensor, " texts"]:
        """The number of tokens of each text."""
        return self.starts.diff()

    @property
    def prompted(self) -> Bool[Tensor, " texts"]:
        """A mask of the texts with a prompt, in addition to a special token at the start."""
        given = torch.cat([torch.zeros(1, dtype=torch.int64), (~self.is_target).long().cumsum(0)])
        return given[self.starts].diff() > (~self.is_target[self.starts[:-1]]).long()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the tokens and of which of them are targets."""
        return hash_columns(("ids", self.ids), ("is_target", self.is_target), ("starts", self.starts))


def name_counter(tokenizer: Any) -> str:
    """Which tokenizer counted tokens, for messages; empty for one that was trained on the texts."""
    place = str(tokenizer.name_or_path or "")
    return f" (counted with the tokenizer of {place})" if place else ""


def row_number(number: int) -> str:
    """The place of a text in a message, where it is in no file."""
    return f"Row {number}"


def tokenize_texts(
    texts: Iterable[Any],
    tokenizer: Any,
    *,
    add_eos_token: bool = True,
    completion_only_loss: bool = True,
    folder: str | Path | None = None,
    where: Callable[[int], str] = row_number,
) -> TokenizedTexts:
    """Tokenize texts once.

    A token belongs to the part that its last character belongs to, so a token that spans the end of the prompt is
    learned, and one that spans the end of an answer is not. Special tokens in front are given, and the end token is
    learned: a model that never sees it never stops.

    Args:
        texts: Plain texts, ``{"text"}``, ``{"prompt", "completion"}`` or ``{"messages"}``. A chat is written by the
            tokenizer's chat template, and the answers of the assistant are learned. A row with ``"cut_off": True`` gets
            no end token.
        tokenizer: A fast tokenizer of transformers.
        add_eos_token: Whether to end each text with the tokenizer's ``eos_token``, if it does not end so already.
        completion_only_loss: Whether only answers are learned. If not, prompts and questions are learned too.
        folder: The folder of the tokens, which are read by a memory map. The folder is filled once for these texts and
            this tokenizer; another text or tokenizer fills another file.
        where: The place of a text, from its number, for messages.

    Raises:
        LimbeckError: If the tokenizer is not a fast one, or has no ``eos_token`` that `add_eos_token` needs; if
            `folder` cannot be made, for example because it is a file.
        DataError: If there is no text, a text is not one of the forms above, or has nothing to learn.

    Example:
        >>> from limbeck.data import train_tokenizer
        >>> tokenizer = train_tokenizer(["add 1 and 2", "3"], vocabulary=40)
        >>> one = tokenize_texts([{"prompt": "1 and 2", "completion": " 3"}], tokenizer, add_eos_token=False)
        >>> tokenizer.decode(one.ids[one.is_target])
        '3[SEP]'
    """
    _check(tokenizer, add_eos_token)
    rows = [texts] if isinstance(texts, (str, Mapping)) else list(texts)
    if not rows:
        raise DataError("There are no texts; a dataset needs at least one.")
    how = _How(tokenizer, add_eos_token, completion_only_loss, where)
    if folder is None:
        return _tokenize(rows, how)
    place = Path(folder) / f"tokens-{_hash_request(rows, how)[:16]}"
    if not (place / _SUMMARY).is_file():
        _write(place, _tokenize(rows, how))
    return _read(place, tokenizer)


def _check(tokenizer: Any, add_eos_token: bool) -> None:
    check_tokenizer(tokenizer)
    if not tokenizer.is_fast:
        raise LimbeckError(
            f"{type(tokenizer).__name__} is a slow tokenizer, which does not give the position of a token in the text. "
            "Use AutoTokenizer.from_pretrained(..., use_fast=True)."
        )
    if add_eos_token and tokenizer.eos_token_id is None:
        raise LimbeckError(
            f"This {type(tokenizer).__name__} has no eos_token, so a student would never learn to stop. Set "
            "tokenizer.eos_token, or pass add_eos_token=False."
        )


def _tokenize(rows: Sequence[Any], how: _How) -> TokenizedTexts:
    ids: list[np.ndarray] = []
    marks: list[np.ndarray] = []
    for start in range(0, len(rows), _ROWS):
        parts = [_split(row, how.where(start + i), how) for i, row in enumerate(rows[start : start + _ROWS])]
        for i, (row, is_target) in enumerate(_encode(parts, how.tokenizer, how.add_eos_token), start=start):
            if not is_target[1:].any():  # nothing predicts the first token
                raise DataError(f"{how.where(i)} has no token to learn: {_shorten(rows[i])}. Leave it out.")
            ids.append(np.asarray(row, dtype=np.int32))
            marks.append(is_target)
    starts = np.cumsum([0, *map(len, ids)])
    tokens, targets = torch.from_numpy(np.concatenate(ids)), torch.from_numpy(np.concatenate(marks))
    return TokenizedTexts(tokens, targets, torch.from_numpy(starts), tokenizer=how.tokenizer)


def _encode(parts: Sequence[_Parts], tokenizer: Any, add_eos_token: bool) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield the tokens of each text and which of them are learned."""
    for special in (True, False):
        if all(part.special != special for part in parts):
            continue
        if any(part.special != special for part in parts):  # chats and other texts in one file
            for part in parts:
                yield from _encode([part], tokenizer, add_eos_token)
            return
        encoding = tokenizer(
            [part.text for part in parts],
            add_special_tokens=special,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            verbose=False,
        )
        for i, part in enumerate(parts):
            yield _mark(
                encoding["input_ids"][i],
                np.asarray(encoding["offset_mapping"][i]).reshape(-1, 2),
                np.asarray(encoding["special_tokens_mask"][i], dtype=bool) & special,
                part.target_ranges,
                tokenizer.eos_token_id if add_eos_token else None,
                ends=parts[i].ends,
            )


def _mark(
    tokens: list[int],
    offsets: np.ndarray,
    special: np.ndarray,
    target_ranges: tuple[tuple[int, int], ...],
    end: int | None,
    *,
    ends: bool = True,
) -> tuple[list[int], np.ndarray]:
    """Mark the tokens of the learned ranges of characters, and the special tokens behind the last if the text ends."""
    marks = np.zeros(len(tokens), dtype=bool)
    for first, last in target_ranges:
        marks |= (offsets[:, 1] > first) & (offsets[:, 1] <= last) & ~special
    inner = np.flatnonzero(~special)
    if ends and len(inner) and target_ranges and marks[inner[-1]]:
        marks[inner[-1] + 1 :] = True
        if end is not None and tokens[-1] != end:
            return [*tokens, end], np.append(marks, True)
    return tokens, marks


def _split(row: Any, where: str, how: _How) -> _Parts:
    """The text of a row and what of it is learned."""
    parts = _split_form(row, where, how.tokenizer)
    if isinstance(row, Mapping) and row.get(CUT_OFF):
        parts = parts._replace(ends=False)
    return parts if how.completion_only_loss else parts._replace(target_ranges=((0, len(parts.text)),))


def _split_form(row: Any, where: str, tokenizer: Any) -> _Parts:
    if isinstance(row, str):
        return _Parts(row, ((0, len(row)),), True)
    if not isinstance(row, Mapping):
        raise DataError(f"{where} is a {type(row).__name__}; a text is a string or a mapping.")
    # Rows of one file may have all its columns, and None in those of the other forms.
    if row.get("messages") is not None:
        return _split_chat(row["messages"], where, tokenizer)
    is_pair = any(row.get(name) is not None for name in ("prompt", "completion"))
    names = ("prompt", "completion") if is_pair else ("text",)
    for name in names:
        if not isinstance(row.get(name), str):
            raise DataError(
                f"{where} has no string {name!r}; it has {', '.join(map(repr, row)) or 'nothing'}. A row is "
                "{'text'}, {'prompt', 'completion'} or {'messages'}."
            )
    if names == ("text",):
        return _Parts(row["text"], ((0, len(row["text"])),), True)
    prompt, completion = row["prompt"], row["completion"]
    if not completion:
        raise DataError(f"{where} has an empty completion: {_shorten(row)}. Leave it out.")
    return _Parts(prompt + completion, ((len(prompt), len(prompt) + len(completion)),), True)


def _split_chat(messages: Any, where: str, tokenizer: Any) -> _Parts:
    """Write a chat by the tokenizer's template; the answers are what it adds behind the call for an answer."""
    if not tokenizer.chat_template:
        raise DataError(
            f"{where} has messages, and this {type(tokenizer).__name__} has no chat template. Set "
            "tokenizer.chat_template, or write prompt and completion."
        )
    if (
        not isinstance(messages, Sequence)
        or not messages
        or not all(isinstance(one, Mapping) and "role" in one for one in messages)
    ):
        raise DataError(f"{where}: messages is a list of {{'role': ..., 'content': ...}}; got {_shorten(messages)}.")
    write = tokenizer.apply_chat_template
    whole: str = write(messages, tokenize=False)
    target_ranges = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = write(messages[:i], tokenize=False, add_generation_prompt=True) if i else ""
        until = write(messages[: i + 1], tokenize=False)
        if not (until.startswith(before) and whole.startswith(until)):
            raise DataError(
                f"{where}: the chat template writes message {i} in another way once others follow, so the answers "
                "cannot be located. Split the chat into rows with one answer each."
            )
        target_ranges.append((len(before), len(until)))
    if not target_ranges:
        raise DataError(f"{where} has no message of the role 'assistant', so there is nothing to learn.")
    return _Parts(whole, tuple(target_ranges), False)


def _hash_request(rows: Sequence[Any], how: _How) -> str:
    learned = "" if how.completion_only_loss else "all|"
    total = hashlib.sha256(f"{hash_tokenizer(how.tokenizer)}|{how.add_eos_token}|{learned}1".encode())
    for row in rows:
        text = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode()
        total.update(len(text).to_bytes(8, "little") + text)
    return total.hexdigest()


def _write(folder: Path, texts: TokenizedTexts) -> None:
    """Write the columns as plain numbers, as they are mapped; the folder appears as a whole."""
    partial = new_partial_folder(folder)
    for name, column in zip(_COLUMNS, (texts.ids, texts.is_target, texts.starts), strict=True):
        write_bytes(column.numpy().tobytes(), partial / f"{name}.bin")
    summary = {"texts": len(texts), "tokens": len(texts.ids), "fingerprint": texts.fingerprint}
    write_text(json.dumps(summary), partial / _SUMMARY)
    replace_folder(partial, folder)


def _read(folder: Path, tokenizer: Any) -> TokenizedTexts:
    """Map the columns into memory, and compare their hash with the stored one.

    Raises:
        DataError: If a file is missing or damaged.
    """
    try:
        summary = json.loads((folder / _SUMMARY).read_text(encoding="utf-8"))
        sizes = {"ids": summary["tokens"], "is_target": summary["tokens"], "starts": summary["texts"] + 1}
        columns = {
            name: torch.from_file(str(folder / f"{name}.bin"), shared=False, size=sizes[name], dtype=dtype)
            for name, dtype in _COLUMNS.items()
        }
        texts = TokenizedTexts(**columns, tokenizer=tokenizer)
        damaged = texts.fingerprint != summary["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise DataError(f"The tokens in {folder} cannot be read: {error}. Delete the folder.") from error
    if damaged:
        raise DataError(f"The tokens in {folder} are damaged. Delete the folder, and they are made again.")
    return texts


def _shorten(row: Any) -> str:
    text = repr(row)
    return text if len(text) <= 80 else f"{text[:77]}..."
