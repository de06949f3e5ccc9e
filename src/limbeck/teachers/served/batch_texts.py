"""`read_texts`: the texts of a batch that a server has to score."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from limbeck.batch import IGNORED, Batch
from limbeck.errors import LimbeckError


class ServedText(NamedTuple):
    """One text of a batch: its tokens, and one more for the position behind the last that counts.

    Attributes:
        row: Its row in the batch.
        columns: The positions of its tokens in the row.
        ids: Its tokens.
        first: The first token that is scored; the distribution belongs to the position before it.
    """

    row: int
    columns: list[int]
    ids: list[int]
    first: int

    @property
    def key(self) -> bytes:
        """A hash of the tokens, and of the first one that is scored."""
        return hashlib.blake2b(np.array([self.first, *self.ids], np.int64).tobytes(), digest_size=16).digest()


def read_texts(inputs: Any, batch: Batch, masks: frozenset[str]) -> tuple[Tensor, Tensor, list[ServedText]]:
    """The token ids of a batch, which positions count, and the texts to score.

    Rows may be padded on either side. Packed texts, which have no attention mask, begin where position ids are 0.

    Raises:
        LimbeckError: If the inputs are no token ids of a causal language model.
    """
    named = inputs if isinstance(inputs, Mapping) else {"input_ids": inputs}
    ids = named.get("input_ids")
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point() or "decoder_input_ids" in named:
        raise LimbeckError(
            "A served teacher reads the input_ids [batch, positions] of a causal language model; got "
            f"{', '.join(map(str, named)) if isinstance(inputs, Mapping) else type(inputs).__name__}."
        )
    ids = ids.detach().cpu().long()
    real = _find_real(named, batch, ids)
    counted = _find_counted(batch, masks, real)
    places = named.get("position_ids")
    begins = torch.zeros_like(real)
    if isinstance(places, Tensor) and places.shape == ids.shape and "attention_mask" not in named:
        begins = (places.cpu() == 0) & real
    texts = []
    for row in range(len(ids)):
        columns = real[row].nonzero()[:, 0].tolist()
        starts = [i for i, column in enumerate(columns) if bool(begins[row, column])] or [0]
        for start, end in zip(starts, [*starts[1:], len(columns)], strict=True):
            if (text := _cut_text(ids[row], columns[start:end], counted[row], row, batch)) is not None:
                texts.append(text)
    return ids, counted, texts


def _find_real(named: Mapping[str, Any], batch: Batch, ids: Tensor) -> Tensor:
    """Which positions have a token, and not padding."""
    for mask in (named.get("attention_mask"), batch.extra.get("masks", {}).get("text")):
        if isinstance(mask, Tensor) and mask.shape == ids.shape:
            return mask.cpu().bool()
    return torch.ones_like(ids, dtype=torch.bool)


def _find_counted(batch: Batch, masks: frozenset[str], real: Tensor) -> Tensor:
    """Which positions are read by a loss."""
    own = [batch.mask, *(batch.find_mask(name) for name in sorted(masks))]
    known = [mask.cpu().bool() for mask in own if mask is not None and mask.shape == real.shape]
    return real & torch.stack(known).any(0) if known else real


def _cut_text(ids: Tensor, columns: list[int], counted: Tensor, row: int, batch: Batch) -> ServedText | None:
    """One text up to the last position that counts, with the token behind it; None if no position counts."""
    needed = counted[columns].nonzero()[:, 0]
    if not len(needed):
        return None
    last = int(needed[-1])
    tokens = ids[columns[: last + 1]].tolist()
    if last + 1 < len(columns):
        behind = int(ids[columns[last + 1]])
    else:
        label = IGNORED if batch.labels is None or batch.labels.ndim != 2 else int(batch.labels[row, columns[last]])
        behind = label if label >= 0 else tokens[-1]  # any token: what is asked is the distribution before it
    return ServedText(row, columns, [*tokens, behind], int(needed[0]) + 1)
