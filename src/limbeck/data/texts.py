"""`TextDataset`: texts that are tokenized once and padded per batch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch
from jaxtyping import Int
from torch import Tensor

from limbeck.batch import Batch, Inputs
from limbeck.data.arrays import labels_from
from limbeck.data.dataset import Dataset, hash_columns
from limbeck.data.tokenizer import check_tokenizer
from limbeck.errors import DataError, LimbeckError, LimbeckWarning

_MAX_LENGTH = 128

_TOKENIZE_ROWS = 10_000  # texts per tokenizer call, which limits memory


@final
class TextDataset(Dataset):
    """Dataset of texts, tokenized once at creation and padded to the longest text of a batch.

    The inputs of a batch are a mapping with the tokenizer's outputs (``model_input_names``), int64 ``[batch, tokens]``,
    so a model is called as ``m(input_ids=..., attention_mask=...)``. ``Batch.mask`` is true for tokens that are not
    padding, so that losses on hidden states ignore padding. ``Batch.extra["text"]`` has the texts.

    Args:
        texts: The texts.
        labels: Class indices, one per text; -100 means no label.
        tokenizer: A tokenizer from ``transformers.AutoTokenizer`` or `train_tokenizer`.
        pairs: A second text per example, for tasks on pairs of texts.
        max_length: Maximum number of tokens per text, 128 by default; longer texts are truncated. `cut` is the number
            of truncated texts. Without a `max_length`, truncation issues a `LimbeckWarning`.
        class_names: The name of each class.
        add_eos_token: Whether to append the tokenizer's ``eos_token`` to each text that is not truncated. Tokenizers of
            causal language models (GPT-2, Llama) do not append it, so a student would not learn where a text ends.

    Raises:
        LimbeckError: If `tokenizer` is not a tokenizer, it has no padding token, or it has no ``eos_token`` that
            `add_eos_token` needs.
        DataError: If there are no texts, one is not a string or has no token, lengths differ, or labels are not class
            indices.

    Example:
        >>> from limbeck.data import train_tokenizer
        >>> texts = ["a fine film", "dull"]
        >>> data = TextDataset(texts, [1, 0], tokenizer=train_tokenizer(texts, vocabulary=40))
        >>> data.take(torch.tensor([1, 0])).inputs["attention_mask"].tolist()
        [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    """

    ragged = True

    def __init__(
        self,
        texts: Sequence[str],
        labels: Any = None,
        *,
        tokenizer: Any,
        pairs: Sequence[str] | None = None,
        max_length: int | None = None,
        class_names: Sequence[str] | None = None,
        add_eos_token: bool = False,
    ) -> None:
        check_tokenizer(tokenizer)
        if add_eos_token and tokenizer.eos_token_id is None:
            raise LimbeckError(
                f"add_eos_token: this {type(tokenizer).__name__} has no eos_token. Set one, or leave add_eos_token out."
            )
        most = _MAX_LENGTH if max_length is None else max_length
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            raise DataError(f"max_length must be a number of tokens, at least 1; got {max_length!r}.")
        self.tokenizer = tokenizer
        self.texts = _check_texts("texts", texts)
        self.pairs = None if pairs is None else _check_texts("pairs", pairs)
        self.class_names = None if class_names is None else tuple(str(name) for name in class_names)
        self.labels = None if labels is None else labels_from(labels, classes=self.class_names)
        for name, column in (("pairs", self.pairs), ("labels", self.labels)):
            if column is not None and len(column) != len(self.texts):
                raise DataError(
                    f"There are {len(self.texts)} texts but {len(column)} {name}; the numbers must be equal."
                )
        self._columns, self._starts, self._lengths, self._cut = _tokenize(
            tokenizer, self.texts, self.pairs, most, end=tokenizer.eos_token_id if add_eos_token else None
        )  # fmt: skip
        if max_length is None and self._cut:
            warnings.warn(
                f"{self._cut:,} of {len(self.texts):,} texts are longer than {most} tokens and are truncated. Set "
                "the maximum number of tokens, for example max_length=256.", LimbeckWarning, stacklevel=2,
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def cut(self) -> int:
        """Number of texts longer than `max_length` tokens, which were truncated."""
        return self._cut

    def take(self, index: Int[Tensor, " n"]) -> Batch:
        """Return the texts at `index`, padded to the longest of them, on the tokenizer's ``padding_side``."""
        lengths, positions = self._lengths[index], torch.arange(int(self._lengths[index].max()))
        if self.tokenizer.padding_side == "left":
            positions = positions - len(positions) + lengths[:, None]
        mask = (positions >= 0) & (positions < lengths[:, None])
        inside = torch.where(mask, positions + self._starts[index, None], 0)
        inputs = {
            name: torch.where(mask, flat[inside].long(), self._fill(name)) for name, flat in self._columns.items()
        }
        inputs["attention_mask"] = mask.long()
        labels = None if self.labels is None else self.labels[index]
        return Batch(inputs, index, None, labels, mask, {"text": [self.texts[i] for i in index.tolist()]})

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the token ids, the padding, the labels and the class names."""
        padding = (self.tokenizer.padding_side, *(self._fill(name) for name in self._columns))
        own = [("lengths", self._lengths), ("labels", self.labels), ("class_names", self.class_names)]
        return hash_columns(("texts", padding), *self._columns.items(), *own)

    def _fill(self, name: str) -> int:
        """The padding value of an input column."""
        return int(self.tokenizer.pad_token_id if name == "input_ids" else self.tokenizer.pad_token_type_id)


def _check_texts(what: str, texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str):
        raise DataError(f"{what} is a single string; pass a list of strings.")
    text_list = list(texts)
    if not text_list:
        raise DataError(f"There are no {what}; a dataset needs at least one.")
    for i, text in enumerate(text_list):
        if not isinstance(text, str):
            raise DataError(f"{what}[{i}] is a {type(text).__name__}, {text!r}, not a string.")
    return text_list


def _tokenize(
    tokenizer: Any, texts: list[str], pairs: list[str] | None, max_length: int, *, end: int | None
) -> tuple[dict[str, Tensor], Tensor, Tensor, int]:
    """Tokenize texts; returns concatenated columns in int32, text starts, text lengths and the number truncated."""
    columns: dict[str, list[int]] = {}
    lengths: list[int] = []
    cut = 0
    for start in range(0, len(texts), _TOKENIZE_ROWS):
        part = slice(start, start + _TOKENIZE_ROWS)
        text_columns = [texts[part]] if pairs is None else [texts[part], pairs[part]]
        encoding = tokenizer(*text_columns, truncation=True, max_length=max_length)
        if end is not None:
            _append_end_tokens(encoding, end, max_length)
        lengths += [len(row) for row in encoding["input_ids"]]
        cut += _count_cut(tokenizer, text_columns, encoding, max_length)
        for name in set(encoding) - {"attention_mask"}:
            columns.setdefault(name, []).extend(number for row in encoding[name] for number in row)
    counts = torch.tensor(lengths)
    if bool((counts == 0).any()):
        i = int((counts == 0).nonzero()[0])
        raise DataError(f"Text {i}, {texts[i]!r}, has no tokens; leave it out.")
    flat = {name: torch.tensor(columns[name], dtype=torch.int32) for name in sorted(columns)}
    return flat, counts.cumsum(0) - counts, counts, cut


def _append_end_tokens(encoding: Any, end: int, most: int) -> None:
    """Append the end token to each text that is short enough and does not end with it yet."""
    for i, row in enumerate(encoding["input_ids"]):
        if len(row) < most and row[-1:] != [end]:
            for name in set(encoding) - {"attention_mask"}:
                column = encoding[name][i]
                column.append(end if name == "input_ids" else (column or [0])[-1])


def _count_cut(tokenizer: Any, text_columns: list[list[str]], encoding: Any, max_length: int) -> int:
    """Count the texts that were truncated."""
    full = [i for i, row in enumerate(encoding["input_ids"]) if len(row) >= max_length]
    if tokenizer.is_fast:  # it keeps the truncated tokens
        return sum(bool(encoding.encodings[i].overflowing) for i in full)
    if not full:
        return 0
    whole = tokenizer(*([texts[i] for i in full] for texts in text_columns), truncation=False, verbose=False)
    return sum(len(row) > max_length for row in whole["input_ids"])


@dataclass(frozen=True)
class TokenizeOnRead:
    """Preprocessing that tokenizes raw texts: ``student(**preprocess(limbeck.Batch(["a fine film"])))``.

    A batch with tokens, as in training, is returned unchanged.

    Attributes:
        tokenizer: A tokenizer of transformers; texts are truncated to its ``model_max_length``.

    Example:
        >>> from limbeck.data import train_tokenizer
        >>> preprocess = TokenizeOnRead(train_tokenizer(["a fine film", "dull"], vocabulary=40))
        >>> preprocess(Batch(["dull", "a fine film"]))["attention_mask"].tolist()
        [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    """

    tokenizer: Any

    def __call__(self, batch: Batch) -> Inputs:
        """Return token ids, the attention mask and other tokenizer outputs, padded to the longest text.

        Raises:
            DataError: If the batch has neither texts nor tokens.
        """
        if isinstance(batch.inputs, Mapping):
            return batch.inputs
        if not isinstance(batch.inputs, (list, tuple)):
            raise DataError(f"The inputs of this student are a list of strings; got a {type(batch.inputs).__name__}.")
        most = int(self.tokenizer.model_max_length)
        texts = TextDataset(batch.inputs, tokenizer=self.tokenizer, max_length=most)
        return texts.take(torch.arange(len(texts))).inputs
