"""`PromptDataset`: prompts without answers, for models that write the answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, final

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from limbeck.batch import IGNORED, Batch
from limbeck.data.dataset import Dataset, hash_columns
from limbeck.data.tokenized_texts import hash_tokenizer, name_counter
from limbeck.data.tokenizer import check_tokenizer
from limbeck.errors import DataError, TextTooLongError


@final
class PromptDataset(Dataset):
    """Dataset of prompts without answers: no token has a label before a model has written one (`Rollouts`).

    Args:
        prompts: Strings, rows ``{"prompt"}``, or chats ``{"messages"}``, whose last answer is left out. A chat is
            written by the tokenizer's template, up to where the assistant begins to answer.
        tokenizer: A fast tokenizer of transformers. Special tokens in front are part of a prompt, those behind are not.
        max_length: The largest number of tokens of a prompt.

    Raises:
        LimbeckError: If the tokenizer does not fit.
        DataError: If a row is no prompt, is empty, or is too long.

    Example:
        >>> from limbeck.data import train_tokenizer
        >>> tokenizer = train_tokenizer(["a b c d"], vocabulary=30)
        >>> batch = PromptDataset(["a b c", {"prompt": "a"}], tokenizer=tokenizer).take(torch.arange(2))
        >>> tokenizer.batch_decode(batch.inputs["input_ids"]), bool(batch.mask.any())
        (['[CLS] a b c', '[CLS] a[PAD][PAD]'], False)
    """

    ragged = True

    def __init__(self, prompts: Iterable[Any], *, tokenizer: Any, max_length: int = 512) -> None:
        check_tokenizer(tokenizer)
        self.tokenizer = tokenizer
        self._prompts = [_tokenize(row, number, tokenizer) for number, row in enumerate(prompts)]
        if not self._prompts:
            raise DataError("There are no prompts; a dataset needs at least one.")
        longest = max(map(len, self._prompts))
        if longest > max_length:
            raise TextTooLongError(
                f"A prompt has {longest:,} tokens{name_counter(tokenizer)}, and max_length={max_length}. Raise it, or "
                "leave such prompts out.",
                needed=longest,
            )

    def __len__(self) -> int:
        return len(self._prompts)

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """The hash of the tokenizer."""
        return hash_tokenizer(self.tokenizer)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all prompts."""
        lengths = torch.tensor([len(prompt) for prompt in self._prompts])
        return hash_columns(("prompts", torch.cat(self._prompts)), ("lengths", lengths))

    def take(self, index: Int[Tensor, " n"]) -> Batch:
        """Return prompts, padded on the right. No label counts."""
        rows = [self._prompts[number] for number in index.tolist()]
        ids = pad_sequence(rows, batch_first=True, padding_value=int(self.tokenizer.pad_token_id))
        there = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
        inputs = {"input_ids": ids, "attention_mask": there.long()}
        extra = {"masks": {"text": there}, "text_number": torch.where(there, index[:, None], -1)}
        return Batch(inputs, index, None, torch.full_like(ids, IGNORED), torch.zeros_like(there), extra)


def _tokenize(row: Any, number: int, tokenizer: Any) -> Int[Tensor, " _prompt"]:
    """The tokens of one prompt."""
    messages = row.get("messages") if isinstance(row, Mapping) else None
    text: Any = row.get("prompt") if isinstance(row, Mapping) else row
    if messages is not None:
        text = _write_chat(messages, number, tokenizer)
    if not isinstance(text, str) or not text:
        raise DataError(f"Prompt {number} is no text: a prompt is a string, {{'prompt'}} or {{'messages'}}.")
    made = tokenizer(text, add_special_tokens=messages is None, return_special_tokens_mask=True)
    ids, special = list(made.input_ids), list(made.special_tokens_mask)
    while len(ids) > 1 and special[-1] and messages is None:  # such as BERT's [SEP], which would end the text
        ids.pop()
        special.pop()
    return torch.tensor(ids, dtype=torch.int64)


def _write_chat(messages: Any, number: int, tokenizer: Any) -> str:
    if not isinstance(messages, Sequence) or not all(isinstance(one, Mapping) and "role" in one for one in messages):
        raise DataError(f"Prompt {number}: messages is a list of {{'role': ..., 'content': ...}}.")
    if not tokenizer.chat_template:
        raise DataError(f"Prompt {number} has messages, and the tokenizer has no chat template.")
    asked = messages[:-1] if messages and messages[-1]["role"] == "assistant" else messages
    return str(tokenizer.apply_chat_template(list(asked), tokenize=False, add_generation_prompt=True))
