"""`BatchAlignment`: which tokens of a batch spell the same bytes as tokens that a teacher reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from limbeck.batch import IGNORED, Batch
from limbeck.errors import LimbeckError
from limbeck.models.token_alignment import AlignedText, TokenAligner


class BatchAlignment(NamedTuple):
    """The aligned tokens of a batch.

    Attributes:
        teacher_ids: What the teacher reads, one row for each window, padded on the right: all but the last token.
        next_ids: The teacher's next token at each position.
        is_text: Where the teacher reads no padding.
        position: The position of the student, among all of the batch, that predicts the first token of each group.
        count: The number of the student's tokens in each group.
        teacher_place: The position of the teacher, among all of its rows, that predicts the first token of the group.
        teacher_count: The number of the teacher's tokens.
        is_continued: Whether both models predict the token after the group.
        tokens: The number of the student's tokens with a label.
        changed: The number of windows whose text the teacher's tokenizer changes.
    """

    teacher_ids: Int[Tensor, "windows length"]
    next_ids: Int[Tensor, "windows length"]
    is_text: Bool[Tensor, "windows length"]
    position: Int[Tensor, " groups"]
    count: Int[Tensor, " groups"]  # type: ignore[assignment] # tuple.count is of no use here
    teacher_place: Int[Tensor, " groups"]
    teacher_count: Int[Tensor, " groups"]
    is_continued: Bool[Tensor, " groups"]
    tokens: int
    changed: int

    @property
    def aligned_tokens(self) -> int:
        """The number of the student's tokens with a label that are in a group."""
        return int(self.count.sum())

    def list_groups(self, batch: Batch) -> list[tuple[list[int], list[int]]]:
        """The student's and the teacher's tokens of each group."""
        if batch.labels is None:
            return []
        labels, ids = batch.labels.cpu().flatten().tolist(), self.next_ids.flatten().tolist()
        ranges = zip(*(column.tolist() for column in self.columns), strict=True)
        return [(labels[a : a + m], ids[b : b + n]) for a, m, b, n in ranges]

    @property
    def columns(self) -> tuple[Tensor, ...]:
        """Position, count, teacher's place and teacher's count of each group."""
        return self.position, self.count, self.teacher_place, self.teacher_count


def read_labels(batch: Batch) -> Int[Tensor, "batch positions"]:
    """The labels of a batch of tokens.

    Raises:
        LimbeckError: If there are none at the positions of the tokens.
    """
    inputs = batch.inputs
    if isinstance(inputs, Mapping) and {"labels", "decoder_input_ids"} & set(inputs):
        raise LimbeckError(
            "These are batches of an encoder-decoder; a teacher with another tokenizer teaches causal language models."
        )
    if batch.labels is None or batch.labels.ndim != 2 or read_ids(batch).shape != batch.labels.shape:
        raise LimbeckError(
            "A teacher with another tokenizer needs rows of tokens with their next tokens as labels, [batch, "
            "positions]: TokenDataset(texts, tokenizer=...)."
        )
    return batch.labels


def read_ids(batch: Batch) -> Tensor:
    """The token ids of a batch.

    Raises:
        LimbeckError: If its inputs are something else.
    """
    ids = batch.inputs.get("input_ids") if isinstance(batch.inputs, Mapping) else batch.inputs
    if not isinstance(ids, Tensor) or ids.is_floating_point():
        raise LimbeckError("A teacher with another tokenizer needs token ids as inputs (input_ids).")
    return ids


def align_batch(batch: Batch, aligner: TokenAligner) -> BatchAlignment:
    """Align the tokens of a batch, window by window.

    Raises:
        LimbeckError: If the batch has no rows of token ids with their next tokens as labels.
    """
    labels = read_labels(batch).cpu()
    if batch.mask is not None and batch.mask.shape == labels.shape:
        labels = labels.masked_fill(~batch.mask.cpu().bool(), IGNORED)
    windows = _find_windows(batch)
    ids, flat_labels = read_ids(batch).cpu().flatten().numpy(), labels.flatten().numpy()
    texts = []
    for places in windows:
        own, nexts = ids[places], flat_labels[places]
        if bool((nexts[:-1] != IGNORED).any()) and bool(((nexts[:-1] != own[1:]) & (nexts[:-1] != IGNORED)).any()):
            raise LimbeckError(
                "The labels of a row are not its next tokens, so they are no text: shift them by one, once, as "
                "TokenDataset does."
            )
        texts.append(own if nexts[-1] == IGNORED else np.append(own, nexts[-1]))
    aligned = aligner.align(texts)
    width = max((len(text.teacher_ids) - 1 for text in aligned), default=0)
    width = max(width, 1)  # a text of one token predicts nothing, and the teacher needs an input
    groups = [
        _usable_groups(text, places, flat_labels[places] != IGNORED, row * width)
        for row, (text, places) in enumerate(zip(aligned, windows, strict=True))
    ]
    columns = np.concatenate([np.empty((5, 0), np.int64), *groups], 1)
    pad = aligner.teacher.tokenizer.pad_token_id or 0
    teacher_ids, is_text = _pad([text.teacher_ids[:width] for text in aligned], width, pad)
    next_ids, _ = _pad([text.teacher_ids[1:] for text in aligned], width, pad)
    position, count, place, teacher_count, is_continued = torch.from_numpy(columns).unbind(0)
    return BatchAlignment(
        teacher_ids, next_ids, is_text, position, count, place, teacher_count, is_continued.bool(),
        tokens=int((labels != IGNORED).sum()), changed=sum(text.changed for text in aligned),
    )  # fmt: skip


def _find_windows(batch: Batch) -> list[np.ndarray]:
    """The positions of each window, among all of the batch: a row has several if it is packed."""
    ids = read_ids(batch)
    inputs = batch.inputs if isinstance(batch.inputs, Mapping) else {}
    masks = batch.extra.get("masks")
    text = masks.get("text") if isinstance(masks, Mapping) else None
    text = inputs.get("attention_mask") if text is None else text
    real = torch.ones_like(ids, dtype=torch.bool) if text is None or text.shape != ids.shape else text.bool()
    starts = torch.zeros_like(real.cpu())
    starts[:, 0] = True
    positions, numbers = inputs.get("position_ids"), batch.extra.get("text_number")
    if isinstance(positions, Tensor) and positions.shape == ids.shape:
        starts |= positions.cpu() == 0
    if isinstance(numbers, Tensor) and numbers.shape == ids.shape:
        starts[:, 1:] |= (numbers[:, 1:] != numbers[:, :-1]).cpu()
    places = real.cpu().flatten().nonzero()[:, 0].numpy()
    begins = starts.flatten().numpy()[places] | (np.diff(places, prepend=-2) != 1)
    return [part for part in np.split(places, np.flatnonzero(begins)) if len(part)]


def _usable_groups(text: AlignedText, places: np.ndarray, learned: np.ndarray, before: int) -> np.ndarray:
    """The groups whose tokens are all predicted by both and learned, ``[5, groups]``: see `BatchAlignment`."""
    groups = text.groups
    missing = np.concatenate([[0], np.cumsum(~learned)])
    first = np.maximum(groups.first - 1, 0)
    last = np.minimum(first + groups.count, len(learned))
    usable = (groups.first > 0) & (groups.teacher_first > 0) & (missing[last] == missing[first])
    # The teacher does not read its last token.
    ends = groups.teacher_first - 1 + groups.teacher_count
    is_continued = (first + groups.count < len(places)) & (ends < len(text.teacher_ids) - 1)
    return np.stack(
        [places[first[usable]], groups.count[usable], groups.teacher_first[usable] - 1 + before,
         groups.teacher_count[usable], is_continued[usable]]
    ).astype(np.int64)  # fmt: skip


def _pad(rows: Sequence[np.ndarray], width: int, pad: int) -> tuple[Tensor, Tensor]:
    """The rows, padded on the right, and where they are; of an empty row, the first place."""
    ids = torch.full((len(rows), width), pad, dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.from_numpy(row.astype(np.int64))
    lengths = torch.tensor([max(len(row), 1) for row in rows], dtype=torch.int64)
    return ids, torch.arange(width) < lengths[:, None]
