"""`TextPrompt`: prompts of texts that a teacher writes, read from a file or a list, with the right answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from limbeck.data.files import check_file
from limbeck.data.language_files import is_text_file
from limbeck.data.text_files import read_json_rows, read_lines
from limbeck.errors import DataError

MESSAGES = "messages"
_REFERENCES = ("answer", "completion")


class TextPrompt(NamedTuple):
    """A prompt of a text.

    Attributes:
        id: A name or number that no other prompt has.
        prompt: The text; or the messages of a chat, of which the last is not of the assistant.
        reference: The right answer; None if it is not known.
    """

    id: str | int
    prompt: str | list[dict[str, Any]]
    reference: str | None = None

    @property
    def columns(self) -> dict[str, Any]:
        """The prompt as columns of JSON lines."""
        own = {"id": self.id, MESSAGES if isinstance(self.prompt, list) else "prompt": self.prompt}
        return own | ({} if self.reference is None else {"reference": self.reference})


def read_prompts(
    source: str | Path | Iterable[Any], *, prompt: str = "prompt", answer: str | None = None, charset: str | None = None
) -> list[TextPrompt]:
    """Read prompts from a ``.jsonl`` file, a ``.txt`` file with one prompt per line, or a list of rows.

    A row has a prompt or ``messages``, and may have an ``id`` (by default its number, from 0) and a right answer.

    Args:
        source: The file; or strings, mappings or `TextPrompt`.
        prompt: The column of the prompts.
        answer: The column of the right answers. By default ``answer`` or ``completion``, if a row has it.
        charset: The encoding of the file; UTF-8 by default.

    Raises:
        DataError: If the file is missing, damaged or empty, a row has no prompt, or two prompts have one id.

    Example:
        >>> read_prompts([{"prompt": "2 + 2 =", "answer": "4"}])
        [TextPrompt(id=0, prompt='2 + 2 =', reference='4')]
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        check_file(path)
        if is_text_file(path):
            rows: list[tuple[str, Any]] = [(f"{path}, line {n},", line) for n, line in read_lines(path, charset)]
        else:
            rows = [(f"{path}, line {n},", row) for n, row in read_json_rows(path, charset)]
    else:
        rows = [(f"Prompt {number}", row) for number, row in enumerate(source)]
    if not rows:
        raise DataError("There are no prompts." if not isinstance(source, (str, Path)) else f"{source} has no prompts.")
    prompts = [_read_row(row, number, where, prompt, answer) for number, (where, row) in enumerate(rows)]
    _check_ids(prompts)
    return prompts


def hash_prompts(prompts: Sequence[TextPrompt]) -> str:
    """SHA-256 of prompts, their ids and their right answers."""
    return hashlib.sha256(json.dumps([prompt.columns for prompt in prompts]).encode()).hexdigest()


def _read_row(row: Any, number: int, where: str, prompt: str, answer: str | None) -> TextPrompt:
    if isinstance(row, TextPrompt):
        return row
    if isinstance(row, str):
        row = {prompt: row}
    if not isinstance(row, Mapping):
        raise DataError(f'{where} is a {type(row).__name__}, not an object such as {{"{prompt}": ...}}.')
    own = row.get("id", number)
    if isinstance(own, bool) or not isinstance(own, (str, int)):
        raise DataError(f"{where} has the id {own!r}; an id is a text or a whole number.")
    return TextPrompt(own, _read_prompt(row, where, prompt), _read_reference(row, where, answer))


def _read_prompt(row: Mapping[str, Any], where: str, column: str) -> str | list[dict[str, Any]]:
    messages = row.get(MESSAGES)
    if isinstance(messages, list) and row.get(column) is None:
        roles = [one.get("role") for one in messages if isinstance(one, Mapping)]
        if not roles or len(roles) != len(messages):
            raise DataError(f"{where}: messages is a list of {{'role': ..., 'content': ...}}; got {messages!r:.60}.")
        # The last answer is what the teacher has to write anew.
        asked = messages[:-1] if roles[-1] == "assistant" else messages
        if not asked:
            raise DataError(f"{where} has nothing but an answer of the assistant: there is no question.")
        return [dict(one) for one in asked]
    text = row.get(column)
    if not isinstance(text, str) or not text:
        has = ", ".join(map(repr, row)) or "nothing"
        raise DataError(
            f"{where} has no text in {column!r}; it has {has}. Name the column of the prompts: --prompt COLUMN."
        )
    return text


def _read_reference(row: Mapping[str, Any], where: str, answer: str | None) -> str | None:
    if answer is not None and row.get(answer) is None:
        has = ", ".join(map(repr, row)) or "nothing"
        raise DataError(f"{where} has no right answer in {answer!r}; it has {has}.")
    columns = (answer,) if answer is not None else _REFERENCES
    value = next((row[column] for column in columns if row.get(column) is not None), None)
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)  # a number, or the fields of a record


def _check_ids(prompts: Sequence[TextPrompt]) -> None:
    first: dict[str | int, int] = {}
    for number, prompt in enumerate(prompts):
        if prompt.id in first:
            raise DataError(f"The prompts {first[prompt.id]} and {number} have the same id {prompt.id!r}.")
        first[prompt.id] = number
