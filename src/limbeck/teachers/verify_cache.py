"""Verification of a cache: does the teacher still give the stored outputs?"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from limbeck.batch import LOGITS, Batch
from limbeck.cache import Store
from limbeck.errors import LimbeckError
from limbeck.functional import kl_divergence
from limbeck.partial_logits import TopKLogits
from limbeck.teachers.cache_request import predict_padded, stored_positions
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.fill_cache import Epochs
from limbeck.teachers.output_layer import LastLayer, find_last_layer, query_addresses
from limbeck.teachers.teacher import Preprocess, TeacherFn, read_inputs

_CPU = torch.device("cpu")
_DIFFERENT = 1e-3
"""Nats beyond which an answer is another one, and not the same with other last bits."""
_SAME = 0.5
"""The fraction of equal bytes below which drawn classes are another teacher's: last bits move fewer."""


class CacheVerification(NamedTuple):
    """How far stored answers are from what the teacher says now.

    Attributes:
        answers: How many were compared.
        identical: The fraction whose records are the same to the bit.
        divergence: The mean KL of the answer now to the stored one, both as they are read back, in nats, over positions
            where there are several; NaN for an encoding that keeps no distribution.
        bytes: The fraction of the records' bytes that are the same.
    """

    answers: int
    identical: float
    divergence: float
    bytes: float

    @property
    def is_sampled(self) -> bool:
        """Whether what is kept are classes drawn at random, of which no distance is known."""
        return math.isnan(self.divergence)

    @property
    def same(self) -> bool:
        """Whether they are the same answers, up to the last bits, which a batch of another size moves."""
        near = self.bytes >= _SAME if self.is_sampled else self.divergence <= _DIFFERENT
        return self.identical == 1 or near

    @property
    def distance_text(self) -> str:
        """The distance in words."""
        if self.is_sampled:
            return f"what is kept is drawn, so that bytes are compared: {100 * self.bytes:.1f} % are the same"
        return f"mean KL {self.divergence:.2g} nats"


def verify_cache(
    teacher: CachedTeacher,
    loader: Epochs,
    *,
    sample: int,
    preprocess: Preprocess = read_inputs,
    views: Sequence[int] = (0,),
    seed: int = 0,
    device: torch.device = _CPU,
) -> CacheVerification:
    """Ask the teacher again about some examples, and compare with what is stored.

    Args:
        teacher: Who answered, and where the answers are kept.
        loader: The examples; those that come first are asked about, so one that shuffles is wanted.
        preprocess: The way from a batch to inputs.
        sample: How many, at least.
        views: Which views of them; each batch is of one, drawn at random.
        seed: Another draws other views.
        device: Where the teacher runs.

    Raises:
        LimbeckError: If there is no teacher to ask, or an example's answer is not stored.
    """
    if teacher.inner is None:
        raise LimbeckError("To ask again, the teacher itself is needed: Cached(teacher, where).")
    store, size = Store(teacher.where), getattr(loader, "batch_size", 1)
    teacher.attach_loader(loader, preprocess)  # raises if the store is another teacher's or data set's
    head = None if teacher.through is None else find_last_layer(teacher.inner, teacher.through)
    found, asked = list[CacheVerification](), 0
    with teacher.inner.prepare(
        query_addresses(frozenset({LOGITS}), head), device=device, preprocess=preprocess
    ) as answer:
        for batch in _drawn(loader, views, seed):
            if asked >= sample:
                break
            found.append(_compared(store, answer, batch.to(device), size, head))
            asked += batch.size
    means = (sum(one.answers * value for one, value in zip(found, values, strict=True)) / max(asked, 1)
             for values in list(zip(*found, strict=True))[1:])  # fmt: skip
    return CacheVerification(asked, *means) if found else CacheVerification(0, 0.0, 0.0, 0.0)


def _drawn(loader: Epochs, views: Sequence[int], seed: int) -> Iterator[Batch]:
    """The batches of an epoch, each in a view of its own."""
    if len(views) == 1:
        yield from loader.batches(views[0], 0)
        return
    draw, number = random.Random(seed), 0
    while (batch := next(loader.batches(draw.choice(views), number), None)) is not None:
        yield batch
        number += 1


def _compared(store: Store, answer: TeacherFn, batch: Batch, size: int, head: LastLayer | None) -> CacheVerification:
    """A batch's answers now beside those that are stored."""
    address = LOGITS if head is None else head.address
    column = store.columns.get(address)
    if column is None:
        raise LimbeckError(f"The cache at {store.location.name} holds no logits to compare.")
    id = batch.id if batch.id is not None else torch.empty(0, dtype=torch.int64)
    view = torch.full_like(id, -1) if batch.view is None else batch.view
    rows = store.rows(id.cpu().numpy(), view.cpu().numpy())
    if len(rows) == 0 or rows.min() < 0:
        raise LimbeckError(f"The store at {store.location.name} lacks answers: finish it with limbeck cache build.")
    shown, counted = predict_padded(answer, batch, size)[address], stored_positions(batch)
    now, (kept, counts) = (
        column.encode(shown, id=id.cpu(), view=view.cpu(), counted=counted),
        store.spans(rows, address),
    )
    if len(now) != len(kept) or (
        counted is not None and column.positions is None and (counted.sum(1).numpy() != counts).any()
    ):
        raise LimbeckError(
            f"The outputs in the cache at {store.location.name} have other lengths than the examples have now. "
            "Build another cache."
        )
    read = [column.decode(records, (len(records),)) for records in (now, kept)]
    if head is not None:
        read = [head.logits(one.float()) if isinstance(one, Tensor) else one for one in read]
    same = now == kept
    whole = np.logical_and.reduceat(same.all(1), counts.cumsum() - counts)  # of each example all positions
    return CacheVerification(len(rows), float(whole.mean()), _divergence(*read), float(same.mean()))


def _divergence(now: object, kept: object) -> float:
    dense = [one.spread() if isinstance(one, TopKLogits) else one for one in (now, kept)]
    if not (isinstance(dense[0], Tensor) and isinstance(dense[1], Tensor)):
        return float(np.nan)
    return float(kl_divergence(dense[1], dense[0]).mean())
