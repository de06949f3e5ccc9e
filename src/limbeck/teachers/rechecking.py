"""Would the teacher give the answers that are stored, if it were asked again?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.functional import kl_divergence
from limbeck.partial import TopK
from limbeck.signal import LOGITS, Batch
from limbeck.store import Store
from limbeck.teachers.asking import asked_whole
from limbeck.teachers.cached import Cached
from limbeck.teachers.filling import Epochs
from limbeck.teachers.teacher import Answer, Reads, read_inputs

_CPU = torch.device("cpu")


class Recheck(NamedTuple):
    """How far stored answers are from what the teacher says now.

    Attributes:
        answers: How many were compared.
        identical: The fraction whose records are the same to the bit.
        divergence: The mean KL of the answer now to the stored one, both as they are read back, in nats; NaN for an
            encoding that keeps no distribution.
    """

    answers: int
    identical: float
    divergence: float


def recheck(
    teacher: Cached,
    source: Epochs,
    *,
    sample: int,
    reads: Reads = read_inputs,
    view: int = 0,
    device: torch.device = _CPU,
) -> Recheck:
    """Ask the teacher again about some examples, and compare with what is stored.

    Args:
        teacher: Who answered, and where the answers are kept.
        source: The examples; those that come first are asked about, so one that shuffles is wanted.
        reads: The way from a batch to inputs.
        sample: How many, at least.
        view: Which view of them.
        device: Where the teacher runs.

    Raises:
        LimbeckError: If there is no teacher to ask, or an example's answer is not stored.
    """
    if teacher.inner is None:
        raise LimbeckError("To ask again, the teacher itself is needed: Cached(teacher, where).")
    store, found = Store(teacher.where), list[tuple[int, int, float]]()
    teacher.expect(source, reads)  # raises if the store is another teacher's or data set's
    with teacher.inner.prepare(frozenset({LOGITS}), device=device, reads=reads) as answer:
        for batch in source.batches(view, 0):
            if sum(count for count, _, _ in found) >= sample:
                break
            found.append(_compared(store, answer, batch.to(device), getattr(source, "batch_size", batch.size)))
    count = sum(one for one, _, _ in found)
    same, divergence = sum(one for _, one, _ in found), sum(one for _, _, one in found)
    return Recheck(count, same / max(count, 1), divergence / max(count, 1))


def _compared(store: Store, answer: Answer, batch: Batch, size: int) -> tuple[int, int, float]:
    """How many answers, how many of them identical, and the sum of their divergences."""
    column = store.columns.get(LOGITS)
    if column is None or column.positions is None:
        raise LimbeckError(
            "Logits with one number of positions can be asked again; this store keeps something else. Its checksums "
            "are checked by limbeck cache verify without --sample."
        )
    id = batch.id if batch.id is not None else torch.empty(0, dtype=torch.int64)
    view = torch.full_like(id, -1) if batch.view is None else batch.view
    rows = store.rows(id.cpu().numpy(), view.cpu().numpy())
    if len(rows) == 0 or rows.min() < 0:
        raise LimbeckError(f"The store at {store.place.name} lacks answers: finish it with limbeck cache build.")
    shown = asked_whole(answer, batch, size)[LOGITS]
    now = column.encode(shown, id=id.cpu(), view=view.cpu())
    kept = store.records(rows, LOGITS)
    same = int((now == kept).all(1).sum())
    return len(rows), same, _divergence(*(column.decode(records, (len(rows),)) for records in (now, kept)))


def _divergence(now: object, kept: object) -> float:
    dense = [one.spread() if isinstance(one, TopK) else one for one in (now, kept)]
    if not (isinstance(dense[0], Tensor) and isinstance(dense[1], Tensor)):
        return float(np.nan)
    values = kl_divergence(dense[1], dense[0])
    return float(values.reshape(len(values), -1).mean(1).sum())
