"""`TokenPairDataset`: texts and the texts to write for them, for encoder-decoder language models."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from limbeck.batch import IGNORED, Batch
from limbeck.data.dataset import Dataset, Subset, hash_columns
from limbeck.data.token_dataset import TokenDataset, count_rows
from limbeck.data.tokenized_texts import CUT_OFF, TokenizedTexts, name_counter, row_number, tokenize_texts
from limbeck.data.tokenizer import count_token_bytes
from limbeck.errors import ArgumentError, DataError, TextTooLongError
from limbeck.random_seeds import counter_order

_COLUMNS = (("source", "target"), ("prompt", "completion"))
_TOO_LONG = ("error", "drop")


@final
class TokenPairDataset(Dataset):
    """Dataset for encoder-decoders (T5, BART): the tokens of a source, and those of the target to write for it.

    ``Batch.labels[i, t]`` is token t of the target, which the decoder writes at its output t; -100 is padding.
    The labels are among the inputs, too, so that each model shifts them right by its own rule
    (`limbeck.model_call.with_decoder_inputs`). With `decoder_start_token_id` the decoder's inputs are made here, for
    models that are not of transformers. ``Batch.mask`` is true where there is a label. ``Batch.extra`` is as for
    `TokenDataset`: ``masks``, ``text_number`` (the number of the pair) and ``label_bytes``.

    Args:
        pairs: Rows ``{"source", "target"}`` or ``{"prompt", "completion"}``.
        tokenizer: A fast tokenizer of transformers.
        max_length: The largest number of tokens of a source.
        max_target_length: The largest number of tokens of a target; by default `max_length`.
        too_long: What happens to a pair that is longer: ``error`` or ``drop``.
        add_eos_token: Whether sources and targets end with the tokenizer's end token, if they do not already.
        decoder_start_token_id: The token that the decoder reads first.
        folder: The folder of the stored tokens, so that a text is tokenized once.
        where: The place of a pair, from its number, for messages.

    Raises:
        LimbeckError: If an argument is out of range, or the tokenizer does not fit.
        DataError: If a row is no pair, is empty, or is too long.

    Example:
        >>> from limbeck.data import train_tokenizer
        >>> tokenizer = train_tokenizer(["a b c d"], vocabulary=30)
        >>> data = TokenPairDataset([{"source": "a b", "target": "c"}, {"source": "a", "target": "d c"}],
        ...                         tokenizer=tokenizer, max_length=8, add_eos_token=False)
        >>> batch = data.take(torch.arange(2))
        >>> tokenizer.batch_decode(batch.inputs["input_ids"]), tokenizer.batch_decode(batch.labels.clamp_min(0))
        (['[CLS] a b[SEP]', '[CLS] a[SEP][PAD]'], ['[CLS] c[SEP][PAD]', '[CLS] d c[SEP]'])
    """

    ragged = True

    def __init__(
        self,
        pairs: Iterable[Any],
        *,
        tokenizer: Any,
        max_length: int = 512,
        max_target_length: int | None = None,
        too_long: str = "error",
        add_eos_token: bool = True,
        decoder_start_token_id: int | None = None,
        folder: str | Path | None = None,
        where: Callable[[int], str] = row_number,
    ) -> None:
        if too_long not in _TOO_LONG:
            raise ArgumentError(f"too_long is {' or '.join(_TOO_LONG)}; got {too_long!r}.", argument="too_long")
        self.max_length, self.max_target_length = max_length, max_target_length or max_length
        for name, value in (("max_length", self.max_length), ("max_target_length", self.max_target_length)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ArgumentError(f"{name} is a number of tokens, at least 1; got {value!r}.", argument=name)
        sources, targets = _split_pairs(pairs)
        self.sources = tokenize_texts(sources, tokenizer, add_eos_token=add_eos_token, folder=folder)
        self.texts = tokenize_texts(targets, tokenizer, add_eos_token=add_eos_token, folder=folder)
        self.decoder_start_token_id = decoder_start_token_id
        self._pair = self._select_short(too_long, where)

    def __len__(self) -> int:
        return len(self._pair)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        return self.texts.tokenizer

    @property
    def text_numbers(self) -> Int[Tensor, " pairs"]:
        """The numbers of the pairs, in order."""
        return self._pair

    def select_texts(self, numbers: Int[Tensor, " pairs"]) -> TokenPairDataset:
        """Return a dataset of some of the pairs.

        Args:
            numbers: The numbers of the pairs, as in `text_numbers`.

        Raises:
            DataError: If there is none of them.
        """
        chosen = self._pair[torch.isin(self._pair, numbers)]
        if not len(chosen):
            raise DataError("There is none of these pairs; a dataset needs at least one.")
        part = copy.copy(self)
        part.__dict__.pop("fingerprint", None)  # that of all pairs, if it was asked for
        part._pair = chosen
        return part

    @property
    def labeled_tokens(self) -> int:
        """The number of labels."""
        return int(self.texts.lengths[self._pair].sum())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the tokens of both sides."""
        how = (int(self.tokenizer.pad_token_id), self.decoder_start_token_id)
        tokens = (self.sources.fingerprint, self.texts.fingerprint)
        return hash_columns(("pairs", tokens), ("how", how), ("numbers", self._pair))

    def take(self, index: Int[Tensor, " n"]) -> Batch:
        """Return pairs, each side padded on the right to the longest."""
        pairs, pad = self._pair[index], int(self.tokenizer.pad_token_id)
        ids, is_source = _pad(self.sources, pairs, pad)
        labels, is_target = _pad(self.texts, pairs, IGNORED)
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": is_source.long()}
        if self.decoder_start_token_id is None:
            inputs["labels"] = labels
        else:
            start = labels.new_full((len(labels), 1), self.decoder_start_token_id)
            inputs["decoder_input_ids"] = torch.cat([start, labels[:, :-1]], 1).masked_fill(~is_target, pad)
        extra: dict[str, Any] = {
            "masks": {"text": is_target},
            "text_number": torch.where(is_target, pairs[:, None], -1),
        }
        if self._token_bytes is not None:
            extra["label_bytes"] = self._token_bytes[labels.clamp_min(0)].masked_fill(~is_target, 0)
        return Batch(inputs, index, None, labels, is_target, extra)

    @cached_property
    def _token_bytes(self) -> Tensor | None:
        return count_token_bytes(self.tokenizer)

    def _select_short(self, too_long: str, where: Callable[[int], str]) -> Int[Tensor, " pairs"]:
        """The numbers of the pairs that are not too long."""
        long = (self.sources.lengths > self.max_length) | (self.texts.lengths > self.max_target_length)
        if bool(long.any()) and too_long == "error":
            i = int(long.nonzero()[0])
            most = max(int(self.sources.lengths.max()), int(self.texts.lengths.max()))
            raise TextTooLongError(
                f"{where(i)} has {int(self.sources.lengths[i]):,} tokens in its source and "
                f"{int(self.texts.lengths[i]):,} in its target{name_counter(self.tokenizer)}; max_length="
                f"{self.max_length} and max_target_length={self.max_target_length}. {count_rows(int(long.sum()))} too "
                "long.",
                needed=most,
            )
        short = (~long).nonzero()[:, 0]
        if not len(short):
            raise DataError(f"All {len(long)} pairs are longer than max_length={self.max_length}. Raise it.")
        return short


TokenData = TokenDataset | TokenPairDataset
"""A dataset of texts for language models."""


def split_texts(data: TokenData, *, fraction: float, seed: int) -> tuple[TokenData, TokenData]:
    """Split a dataset by text: the rest, and a holdout part with a fraction of the texts.

    All windows of a text are in one part. The split is a pure function of the number of texts and the seed.

    Raises:
        DataError: If `fraction` is not between 0 and 1, or there is one text only.

    Example:
        >>> from limbeck.data import train_tokenizer
        >>> texts = ["a b c d", "b c", "c d", "d"]
        >>> tokenizer = train_tokenizer(texts, vocabulary=30)
        >>> data = TokenDataset(texts, tokenizer=tokenizer, max_length=2, add_eos_token=False)
        >>> rest, holdout = split_texts(data, fraction=0.25, seed=0)
        >>> rest.text_numbers.tolist(), holdout.text_numbers.tolist()
        ([0, 1, 2], [3])
    """
    if not 0.0 < fraction < 1.0:
        raise DataError(f"fraction={fraction} must be between 0 and 1: the share of texts to hold out, such as 0.1.")
    numbers = data.text_numbers
    if len(numbers) < 2:
        raise DataError(
            "There is one text only, and windows of one text are not split: name files of other texts with "
            "--set data.val=FILE and data.test=FILE."
        )
    count = min(max(round(fraction * len(numbers)), 1), len(numbers) - 1)
    order = counter_order(len(numbers), seed=seed, epoch=0, stream="texts")
    return data.select_texts(numbers[order[count:]]), data.select_texts(numbers[order[:count]])


def _split_pairs(pairs: Iterable[Any]) -> tuple[list[str], list[Any]]:
    """The two sides of all rows.

    Raises:
        DataError: If a row is no pair of two texts that are not empty.
    """
    sources, targets = list[str](), list[Any]()
    for number, row in enumerate(pairs):
        names = next((pair for pair in _COLUMNS if isinstance(row, Mapping) and pair[0] in row), _COLUMNS[0])
        values = [row.get(name) if isinstance(row, Mapping) else None for name in names]
        for name, value in zip(names, values, strict=True):
            if not isinstance(value, str) or not value:
                what = f"an empty {name!r}" if value == "" else f"no string {name!r}"
                raise DataError(
                    f"Row {number} has {what}; a pair is {{'source', 'target'}} or {{'prompt', 'completion'}}, and "
                    "neither is empty."
                )
        sources.append(str(values[0]))
        cut = isinstance(row, Mapping) and row.get(CUT_OFF)
        targets.append({"text": values[1], CUT_OFF: True} if cut else values[1])
    if not sources:
        raise DataError("There are no pairs; a dataset needs at least one.")
    return sources, targets


def _pad(
    texts: TokenizedTexts, rows: Int[Tensor, " n"], value: int
) -> tuple[Int[Tensor, "n width"], Bool[Tensor, "n width"]]:
    """The tokens of some texts, padded on the right, and where there are tokens."""
    lengths = texts.lengths[rows]
    position = torch.arange(int(lengths.max()) if len(rows) else 0)
    there = position < lengths[:, None]
    place = (texts.starts[:-1][rows][:, None] + position).clamp_max(len(texts.ids) - 1)
    return texts.ids[place].long().masked_fill(~there, value), there


def find_token_data(examples: Any) -> TokenDataset | TokenPairDataset | None:
    """Find the texts as tokens from which examples were selected; None for other data.

    Example:
        >>> find_token_data((torch.zeros(2, 3), torch.zeros(2))) is None
        True
    """
    while isinstance(examples, Subset):
        examples = examples.whole
    return examples if isinstance(examples, (TokenDataset, TokenPairDataset)) else None
