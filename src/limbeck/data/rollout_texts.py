"""Prompts of token batches, batches of written texts, and `TextBuffer`, which keeps texts for replay."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from limbeck.batch import IGNORED, Batch
from limbeck.data.tokenizer import shift_labels
from limbeck.data.written_share import AdaptiveShare, check_written_share
from limbeck.errors import ArgumentError, DataError
from limbeck.random_seeds import counter_uniform
from limbeck.schedule import Schedule

_INPUTS = {"input_ids", "attention_mask", "position_ids", "use_cache", "labels", "decoder_input_ids",
           "decoder_attention_mask"}  # fmt: skip
_BY_POSITION = ("masks", "text_number", "label_bytes")
"""Columns of ``Batch.extra`` that belong to the tokens of the given text."""


class RolloutText(NamedTuple):
    """A text that a model wrote.

    Attributes:
        prompt: The tokens of the prompt.
        text: The new tokens.
        logprobs: The log-probability with which each new token was drawn.
        finished: Whether it ends with an end token.
        id: The id of the example.
        view: The view of the example: the epoch.
        born: The number of the batch for which it was written.
    """

    prompt: Int[Tensor, " prompt"]
    text: Int[Tensor, " new"]
    logprobs: Tensor
    finished: bool
    id: int
    view: int
    born: int


def is_decoder_batch(batch: Batch) -> bool:
    """Whether a batch is for encoder-decoders: what the decoder writes is not part of the ``input_ids``."""
    return "labels" in batch.inputs or "decoder_input_ids" in batch.inputs


def find_prompts(batch: Batch) -> list[Int[Tensor, " _tokens"]]:
    """The prompt of each row of a batch of tokens: all tokens before the first label; all tokens without a label.

    Padding on either side is left out. For an encoder-decoder it is what the encoder reads.

    Raises:
        DataError: If the batch has no tokens, has other inputs too, or has several texts in a row.

    Example:
        >>> ids, labels = torch.tensor([[7, 3, 4, 0]]), torch.tensor([[-100, 4, 5, -100]])
        >>> find_prompts(Batch({"input_ids": ids, "attention_mask": ids > 0}, labels=labels))
        [tensor([7, 3])]
    """
    ids, attended = _read_tokens(batch)
    if not is_decoder_batch(batch):
        labels = batch.labels
        if labels is not None and labels.shape == ids.shape:
            labeled = labels != IGNORED
            first = torch.where(labeled.any(1), labeled.long().argmax(1), ids.shape[1])
            attended = attended & (torch.arange(ids.shape[1], device=ids.device) <= first[:, None])
    if not bool(attended.any(1).all()):
        raise DataError("A row of the batch has no token before its first label, so nothing can be continued.")
    return [row[keep] for row, keep in zip(ids.cpu(), attended.cpu(), strict=True)]


def _read_tokens(batch: Batch) -> tuple[Int[Tensor, "batch width"], Bool[Tensor, "batch width"]]:
    """The tokens, and where they are not padding."""
    inputs = batch.inputs
    if not isinstance(inputs, Mapping) or "input_ids" not in inputs:
        raise DataError(
            "Rollouts continue texts, and the batches of this loader have no input_ids. Load texts with "
            "lb.load_data(..., task='language_modeling'), or use a TokenDataset."
        )
    others = sorted(set(inputs) - _INPUTS)
    if others:
        raise DataError(
            f"Rollouts write texts for tokens alone, and the batches have {', '.join(others)} too, which the texts "
            "would not depend on."
        )
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    if not isinstance(mask, Tensor):
        mask = batch.extra.get("masks", {}).get("text")
    attended = mask.bool() if isinstance(mask, Tensor) and mask.shape == ids.shape else torch.ones_like(ids).bool()
    places = inputs.get("position_ids")
    if isinstance(places, Tensor) and bool(((places == 0) & attended).sum(1).gt(1).any()):
        raise DataError("Rollouts need one prompt in each row, and these rows are packed. Leave packing out.")
    return ids, attended


def make_batch(batch: Batch, texts: Sequence[RolloutText], *, pad: int, number: int, written_by: str) -> Batch:
    """Make a batch of written texts, in the form of the batch whose prompts they continue.

    Prompts are masked, new tokens are the labels, and rows are padded on the right. A text that was cut off has no end
    token, and none is added. ``extra`` has ``behavior_logprobs``, at each label the log-probability with which it was
    drawn and 0 elsewhere; ``age``, the number of batches since each text was written; ``written_by``; ``finished``; and
    the masks ``text`` and ``given``, which is true for tokens of given texts: nowhere.

    Args:
        batch: The batch with the prompts; another one of the same loader if the texts are replayed.
        texts: The texts.
        pad: The token for padding.
        number: The number of the present batch.
        written_by: The name of the writer.
    """
    device = batch.inputs["input_ids"].device
    inputs, labels, there = _decoder_rows(batch, texts, pad) if is_decoder_batch(batch) else _causal_rows(texts, pad)
    is_label = labels != IGNORED
    logprobs = torch.zeros(labels.shape, dtype=texts[0].logprobs.dtype)
    logprobs = logprobs.masked_scatter(is_label, torch.cat([text.logprobs for text in texts]))
    numbers = batch.extra.get("text_number")
    own = {name: value for name, value in batch.extra.items() if name not in _BY_POSITION}
    if isinstance(numbers, Tensor):
        own["text_number"] = torch.where(there, numbers.amax(1, keepdim=True).cpu(), -1)
    extra = {
        **own,
        "masks": {"text": there, "given": torch.zeros_like(is_label)},
        "behavior_logprobs": logprobs,
        "age": torch.tensor([number - text.born for text in texts]),
        "finished": torch.tensor([text.finished for text in texts]),
        "written_by": written_by,
    }
    ids, views = (torch.tensor([getattr(text, name) for text in texts]) for name in ("id", "view"))
    return Batch(inputs, ids, views, labels, is_label, extra).to(device)


def _causal_rows(texts: Sequence[RolloutText], pad: int) -> tuple[dict[str, Any], Tensor, Tensor]:
    tokens = pad_sequence([torch.cat([one.prompt, one.text]) for one in texts], batch_first=True, padding_value=pad)
    prompts = torch.tensor([len(one.prompt) for one in texts])[:, None]
    ends = prompts + torch.tensor([len(one.text) for one in texts])[:, None]
    place = torch.arange(tokens.shape[1])
    is_new = (place >= prompts) & (place < ends)
    # The last token of a text is a label only, as in TokenDataset.
    labels = shift_labels(tokens.masked_fill(~is_new, IGNORED))[:, :-1]
    there = place[:-1] < ends - 1
    inputs = {
        "input_ids": tokens[:, :-1].masked_fill(~there, pad),
        "position_ids": place[:-1] * there,
        "attention_mask": there.long(),
    }
    return inputs, labels, there


def _decoder_rows(batch: Batch, texts: Sequence[RolloutText], pad: int) -> tuple[dict[str, Any], Tensor, Tensor]:
    ids = pad_sequence([one.prompt for one in texts], batch_first=True, padding_value=pad)
    labels = pad_sequence([one.text for one in texts], batch_first=True, padding_value=IGNORED)
    lengths = torch.tensor([len(one.prompt) for one in texts])[:, None]
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < lengths).long()}
    if "decoder_input_ids" in batch.inputs:
        start = batch.inputs["decoder_input_ids"][:1, :1].cpu().expand(len(labels), 1)
        inputs["decoder_input_ids"] = torch.cat([start, labels[:, :-1]], 1).masked_fill(labels == IGNORED, pad)
    else:
        inputs["labels"] = labels
    return inputs, labels, labels != IGNORED


@dataclass(frozen=True)
class Replay:
    """Texts that are used again.

    Attributes:
        capacity: The number of texts that are kept: the last ones that were written; 0 for none.
        share: The share of the batches of written texts that are drawn from these, from 0 to 1, or a `Schedule`; the
            others are new.

    Raises:
        ArgumentError: If a value is out of range.
    """

    capacity: int = 1000
    share: float | Schedule = 0.5

    def __post_init__(self) -> None:
        if isinstance(self.capacity, bool) or not isinstance(self.capacity, int) or self.capacity < 0:
            raise ArgumentError(f"capacity is a number of texts, or 0; got {self.capacity!r}.", argument="capacity")
        if isinstance(self.share, AdaptiveShare):
            raise ArgumentError("The share of replayed texts is a number or a Schedule.", argument="share")
        check_written_share("share", self.share)


class TextBuffer:
    """The last texts that were written: first in, first out.

    Args:
        capacity: The largest number of texts.
    """

    def __init__(self, capacity: int) -> None:
        self._texts: deque[RolloutText] = deque(maxlen=capacity)

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, texts: Sequence[RolloutText]) -> None:
        """Add texts; the oldest ones leave."""
        self._texts.extend(texts)

    def draw(self, rows: Int[Tensor, " rows"], *, number: int, epoch: int, seed: int) -> list[RolloutText]:
        """Draw a text for each row of a batch, with replacement: a pure function of the texts and these numbers."""
        keys = rows + (number << 20)
        uniform = counter_uniform(keys, torch.full_like(keys, epoch), seed=seed, draws=1, stream="replay")[:, 0]
        return [self._texts[place] for place in (uniform.double() * len(self)).long().tolist()]

    def state_dict(self) -> dict[str, Tensor]:
        """The texts as a few tensors."""
        texts = list(self._texts)
        empty = torch.zeros(0)
        return {
            "tokens": torch.cat([empty.int(), *(torch.cat([one.prompt, one.text]).int() for one in texts)]),
            "logprobs": torch.cat([empty, *(one.logprobs for one in texts)]),
            "table": torch.tensor(
                [[len(one.prompt), len(one.text), one.finished, one.id, one.view, one.born] for one in texts],
                dtype=torch.int64,
            ).view(len(texts), 6),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the texts."""
        self._texts.clear()
        table = state["table"].tolist()
        sizes = [size for row in table for size in row[:2]]
        tokens = iter(state["tokens"].cpu().long().split(sizes))
        logprobs = iter(state["logprobs"].cpu().split([row[1] for row in table]))
        for _, _, finished, id, view, born in table:
            self._texts.append(RolloutText(next(tokens), next(tokens), next(logprobs), bool(finished), id, view, born))
