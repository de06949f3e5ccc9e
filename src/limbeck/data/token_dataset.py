"""`TokenDataset`: windows of tokens with the next token as label, for language models."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Int
from torch import Tensor

from limbeck.batch import IGNORED, Batch
from limbeck.data.dataset import Dataset, hash_columns
from limbeck.data.tokenized_texts import TokenizedTexts, name_counter, row_number, tokenize_texts
from limbeck.data.tokenizer import check_tokenizer, count_token_bytes, tokenizer_files
from limbeck.errors import ArgumentError, DataError, TextTooLongError
from limbeck.models.vocabulary import hash_tokenizer

TOKENS_FILE = "tokens.safetensors"
"""The file of tokens and windows (`TokenDataset.to_files`)."""
_TOO_LONG = ("error", "drop", "window")
_SIDES = ("right", "left")


class _Windows(NamedTuple):
    """Windows of the texts, each within one text.

    Attributes:
        text: The number of the text.
        start: Its first token, among all tokens.
        length: The number of tokens that a model reads; the label of the last one is the token behind it.
        context: The number of tokens in front that belong to the window before, too. They have no labels here.
    """

    text: Tensor
    start: Tensor
    length: Tensor
    context: Tensor


@final
class TokenDataset(Dataset):
    """Dataset for language models: each example is a window of tokens, and its labels are the next tokens.

    The labels are shifted here and nowhere else: ``Batch.labels[i, t]`` is the token behind ``input_ids[i, t]``, and
    -100 for a prompt, repeated tokens and padding. ``Batch.mask`` is true where there is a label, so
    divergences count these positions alone; ``Batch.extra["masks"]["text"]`` is true for all tokens, for losses on
    hidden states. ``Batch.extra["text_number"]`` has the number of the text of each position, -1 for padding, and
    ``Batch.extra["label_bytes"]`` the bytes of each label's text.

    A text that is longer than `max_length` becomes several windows, and each of its tokens is a label once. With
    `overlap`, a window begins with that many tokens of the one before, as context without labels.

    With `packing`, several windows share a row. ``position_ids`` begin at 0 for each, and there is no attention mask:
    most models of transformers then keep the windows apart, if they are called with ``use_cache=False``, as the inputs
    say. A model that does not, such as OPT, Falcon or one with convolutions, is refused when it is called.

    Args:
        texts: What `limbeck.data.tokenize_texts` takes, or its result.
        tokenizer: The tokenizer; not needed if `texts` are tokenized.
        max_length: The largest number of tokens that a model reads at a time.
        overlap: Tokens of context from the window before.
        packing: Whether short windows share rows of `max_length` tokens.
        padding_side: ``right``, or ``left``. Position ids count from the first token of the text on either side.
        too_long: What happens to a text with a prompt that does not fit into one window: ``error``; ``drop``; or
            ``window``, whose later windows do not see the prompt. Plain texts always become windows.
        add_eos_token: Whether texts end with the tokenizer's end token.
        folder: The folder of the stored tokens, so that a text is tokenized once.
        where: The place of a text, from its number, for messages.

    Raises:
        LimbeckError: If an argument is out of range, or the tokenizer does not fit.
        DataError: If a text is wrong or too long, or no window has a label.

    Example:
        >>> from limbeck.data import train_tokenizer
        >>> tokenizer = train_tokenizer(["a b c d e f"], vocabulary=30)
        >>> data = TokenDataset(["a b c d e f"], tokenizer=tokenizer, max_length=4, add_eos_token=False)
        >>> batch = data.take(torch.arange(2))
        >>> tokenizer.batch_decode(batch.inputs["input_ids"])
        ['[CLS] a b c', 'd e f[PAD]']
        >>> tokenizer.batch_decode(batch.labels.clamp_min(0))
        ['a b c d', 'e f[SEP][PAD]']
    """

    ragged = True

    def __init__(
        self,
        texts: TokenizedTexts | Iterable[Any],
        *,
        tokenizer: Any = None,
        max_length: int = 512,
        overlap: int = 0,
        packing: bool = False,
        padding_side: str = "right",
        too_long: str = "error",
        add_eos_token: bool = True,
        folder: str | Path | None = None,
        where: Callable[[int], str] = row_number,
    ) -> None:
        _check_arguments(max_length, overlap, packing, padding_side, too_long)
        if isinstance(texts, TokenizedTexts):
            _check_same_tokenizer(texts, tokenizer)
        else:
            texts = tokenize_texts(texts, tokenizer, add_eos_token=add_eos_token, folder=folder, where=where)
        self.texts = texts
        self.max_length, self.overlap, self.padding_side = max_length, overlap, padding_side
        self.packing = packing
        self._set_windows(_select_labeled(_make_windows(texts, max_length, overlap, too_long, where), texts))

    def _set_windows(self, windows: _Windows) -> None:
        self._windows = windows
        # The windows of row r are those from _bounds[r] to _bounds[r + 1].
        count = len(windows.length)
        self._bounds = _pack(windows.length, self.max_length) if self.packing else torch.arange(count + 1)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @property
    def row_lengths(self) -> Int[Tensor, " rows"]:
        """The tokens that a model reads at a time for each row; of a packed one, those of its longest text."""
        if not self.packing:
            return self._windows.length
        return torch.stack([part.max() for part in self._windows.length.split(self._bounds.diff().tolist())])

    @property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        return self.texts.tokenizer

    @cached_property
    def _token_bytes(self) -> Tensor | None:
        """The bytes of each token, also of tokens that the tokenizer does not have."""
        sizes = count_token_bytes(self.tokenizer)
        missing = 0 if sizes is None else max(int(self.texts.ids.max()) + 1 - len(sizes), 0)
        return sizes if sizes is None else torch.cat([sizes, sizes.new_zeros(missing)])

    @property
    def text_numbers(self) -> Int[Tensor, " texts"]:
        """The numbers of the texts in these rows, in order."""
        return self._windows.text.unique()

    def select_texts(self, numbers: Int[Tensor, " texts"]) -> TokenDataset:
        """Return a dataset of the same windows, of some of the texts. All windows of a text go with it.

        Args:
            numbers: The numbers of the texts, as in `text_numbers`.

        Raises:
            DataError: If none of these texts has a window.
        """
        chosen = torch.isin(self._windows.text, numbers)
        if not bool(chosen.any()):
            raise DataError("None of these texts has a window; a dataset needs at least one.")
        part = copy.copy(self)
        part.__dict__.pop("fingerprint", None)  # that of all texts, if it was asked for
        part._set_windows(_Windows(*(column[chosen] for column in self._windows)))
        return part

    @property
    def labeled_tokens(self) -> int:
        """The number of labels in all rows."""
        batches = (self.take(part) for part in torch.arange(len(self)).split(256))
        return sum(int(batch.mask.sum()) for batch in batches if batch.mask is not None)

    @cached_property
    def tokenizer_fingerprint(self) -> str:
        """The hash of the tokenizer."""
        return hash_tokenizer(self.tokenizer)

    def to_files(self) -> dict[str, bytes]:
        """Return the tokens, the windows and the tokenizer as files; `open_cached_texts` reads them."""
        from safetensors.torch import save

        names = ("max_length", "overlap", "packing", "padding_side")
        how = {name: json.dumps(getattr(self, name)) for name in names}
        columns = {"ids": self.texts.ids, "is_target": self.texts.is_target, "starts": self.texts.starts}
        tensors = {name: column.contiguous() for name, column in (columns | self._windows._asdict()).items()}
        return {TOKENS_FILE: save(tensors, metadata=how), **tokenizer_files(self.tokenizer)}

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor], how: Mapping[str, Any], tokenizer: Any) -> TokenDataset:
        """Restore a dataset from the tensors and settings of `to_files`.

        Args:
            tensors: The columns of `TokenizedTexts` and of the windows.
            how: ``max_length``, ``overlap``, ``packing`` and ``padding_side``.
            tokenizer: The tokenizer.
        """
        texts = TokenizedTexts(tensors["ids"], tensors["is_target"], tensors["starts"], tokenizer=tokenizer)
        data = TokenDataset(texts, **{**how, "too_long": "window"})
        data._set_windows(_Windows(*(tensors[name] for name in _Windows._fields)))
        return data

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the tokens and of how they are cut into rows."""
        how = (self.max_length, self.overlap, self.packing, self.padding_side, int(self.tokenizer.pad_token_id))
        return hash_columns(("tokens", self.texts.fingerprint), ("windows", how), *self._windows._asdict().items())

    def take(self, index: Int[Tensor, " n"]) -> Batch:
        """Return rows of tokens, padded to the longest of them."""
        first, last = self._bounds[index], self._bounds[index + 1]
        ranges = [torch.arange(a, b) for a, b in zip(first.tolist(), last.tolist(), strict=True)]
        windows = torch.cat([index.new_empty(0), *ranges])
        row = torch.repeat_interleave(torch.arange(len(index)), last - first)
        length = self._windows.length[windows]
        sizes = torch.zeros(len(index), dtype=torch.int64).index_add_(0, row, length)
        width = int(sizes.max()) if len(sizes) else 0
        # Where each window begins in its row: the tokens before it in the row, and the padding on the left.
        before = length.cumsum(0) - length
        offset = before - (sizes.cumsum(0) - sizes)[row]
        if self.padding_side == "left":
            offset = offset + (width - sizes)[row]
        position = torch.arange(int(length.sum())) - torch.repeat_interleave(before, length)
        window = torch.repeat_interleave(windows, length)
        at = torch.repeat_interleave(row * width + offset, length) + position
        source = self._windows.start[window] + position
        is_label = (position >= self._windows.context[window]) & self.texts.is_target[source + 1]
        labels = self.texts.ids[source + 1].long().masked_fill(~is_label, IGNORED)

        def fill(value: int, column: Tensor) -> Tensor:
            return torch.full((len(index) * width,), value).scatter_(0, at, column).view(len(index), width)

        mask = fill(0, torch.ones_like(position)).bool()
        inputs: dict[str, Any] = {
            "input_ids": fill(int(self.tokenizer.pad_token_id), self.texts.ids[source].long()),
            "position_ids": fill(0, position),
        }
        inputs |= {"use_cache": False} if self.packing else {"attention_mask": mask.long()}
        labels = fill(IGNORED, labels)
        extra: dict[str, Any] = {"masks": {"text": mask}, "text_number": fill(-1, self._windows.text[window])}
        if self._token_bytes is not None:
            extra["label_bytes"] = self._token_bytes[labels.clamp_min(0)].masked_fill(labels == IGNORED, 0)
        return Batch(inputs, index, None, labels, labels != IGNORED, extra)


def _check_arguments(max_length: int, overlap: int, packing: bool, padding_side: str, too_long: str) -> None:
    if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1:
        raise ArgumentError(f"max_length is a number of tokens, at least 1; got {max_length!r}.", argument="max_length")
    if isinstance(overlap, bool) or not isinstance(overlap, int) or not 0 <= overlap < max_length:
        raise ArgumentError(
            f"overlap is a number of tokens from 0 to max_length - 1 = {max_length - 1}; got {overlap!r}.",
            argument="overlap",
        )
    for name, value, choices in (
        ("padding_side", padding_side, _SIDES),
        ("too_long", too_long, _TOO_LONG),
    ):
        if value not in choices:
            raise ArgumentError(f"{name} is {' or '.join(choices)}; got {value!r}.", argument=name)
    if packing and padding_side == "left":
        raise ArgumentError("Packed rows are padded on the right: leave padding_side out.", argument="padding_side")


def _check_same_tokenizer(texts: TokenizedTexts, tokenizer: Any) -> None:
    check_tokenizer(texts.tokenizer)
    if tokenizer is not None and hash_tokenizer(tokenizer) != hash_tokenizer(texts.tokenizer):
        raise ArgumentError(
            "The texts were tokenized by another tokenizer, so its tokens mean something else: leave tokenizer= out.",
            argument="",
        )


def _make_windows(
    texts: TokenizedTexts, max_length: int, overlap: int, too_long: str, where: Callable[[int], str]
) -> _Windows:
    """Cut each text into windows. The last token of a text is a label only."""
    readable = texts.lengths - 1
    long = (readable > max_length) & texts.prompted
    if bool(long.any()) and too_long == "error":
        i = int(long.nonzero()[0])
        raise TextTooLongError(
            f"{where(i)} has {int(texts.lengths[i]):,} tokens with its prompt{name_counter(texts.tokenizer)}. A model "
            f"reads all but the last one, and max_length={max_length}: {count_rows(int(long.sum()))} too long.",
            needed=int(readable[long].max()),
        )
    # A window that begins later reads `step` new tokens.
    step = max_length - overlap
    count = 1 + (readable - max_length).clamp_min(0).add(step - 1).div(step, rounding_mode="floor")
    count[readable < 1] = 0
    if too_long == "drop":
        count[long] = 0
    text = torch.repeat_interleave(torch.arange(len(texts)), count)
    number = torch.arange(len(text)) - torch.repeat_interleave(count.cumsum(0) - count, count)
    begin = number * step
    length = torch.minimum(readable[text] - begin, torch.tensor(max_length))
    return _Windows(text, texts.starts[:-1][text] + begin, length, torch.where(number > 0, overlap, 0))


def count_rows(count: int) -> str:
    """The number of rows with its verb, for messages."""
    return "1 row is" if count == 1 else f"{count:,} rows are"


def _select_labeled(windows: _Windows, texts: TokenizedTexts) -> _Windows:
    """Leave out windows without a label, such as those within a prompt."""
    targets = torch.cat([torch.zeros(1, dtype=torch.int64), texts.is_target.long().cumsum(0)])
    first, last = windows.start + windows.context + 1, windows.start + windows.length + 1
    has_label = targets[last] > targets[first]
    if not bool(has_label.any()):
        raise DataError("No window has a token to learn. Is every text too long, or a prompt without an answer?")
    return _Windows(*(part[has_label] for part in windows))


def _pack(lengths: Tensor, max_length: int) -> Tensor:
    """Fill rows with windows in order; returns the first window of each row, and the number of windows at the end."""
    bounds, size = [0], 0
    for number, length in enumerate(lengths.tolist()):
        if size and size + length > max_length:
            bounds.append(number)
            size = 0
        size += length
    return torch.tensor([*bounds, len(lengths)])
