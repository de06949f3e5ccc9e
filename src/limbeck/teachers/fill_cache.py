"""`fill_cache` stores all outputs of a teacher before training; `verify_cache` computes some of them again."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from limbeck.batch import LOGITS, Batch
from limbeck.cache import CachePart, CacheReader, Location, add_files, are_all_parts_done, join_parts, mark_part, repair
from limbeck.errors import LimbeckError, LimbeckWarning
from limbeck.functional import kl_divergence
from limbeck.teachers.aligned import TranslatedTeacher
from limbeck.teachers.cache_request import (
    LastLayer,
    find_last_layer,
    predict_padded,
    query_addresses,
    repair_head,
    stored_masks,
    stored_positions,
)
from limbeck.teachers.cached_inputs import input_files
from limbeck.teachers.cached_teacher import CachedTeacher
from limbeck.teachers.chance import ChanceCheck
from limbeck.teachers.teacher import Preprocess, Stream, TeacherContext, TeacherFn, read_inputs
from limbeck.top_k_logits import TopKLogits

_CPU = torch.device("cpu")
_DIFFERENT = 1e-3
"""Mean KL in nats beyond which outputs are different, and not equal up to their last bits."""
_SAME = 0.5
"""The fraction of equal bytes below which sampled classes are another teacher's: rounding changes fewer bytes."""


@runtime_checkable
class Epochs(Stream, Protocol):
    """A stream whose epochs can be iterated: a `limbeck.data.TorchLoader`."""

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """The batches of `epoch` from number `start` on."""
        ...


def fill_cache(
    teacher: CachedTeacher,
    loader: Epochs,
    *,
    preprocess: Preprocess = read_inputs,
    views: int = 1,
    device: torch.device = _CPU,
    part: CachePart | None = None,
) -> Iterator[int]:
    """Compute and store the outputs that a cache lacks, for `views` views of every example.

    It can be stopped at any time; the next call continues after the outputs on disk. Damaged outputs are
    dropped with a warning and computed again. A warning says so if the teacher is no better than chance on the first
    thousand labeled examples.

    Several processes fill one cache at the same time if each gets another `part`. Every part has whole batches, so its
    outputs are bitwise those of a single process. The process that is last joins the parts; after an interruption, a
    call without `part` joins those that are there and computes the rest.

    Args:
        teacher: The cached teacher.
        loader: The loader of the examples.
        preprocess: The function from a batch to inputs.
        views: The number of views of each example: the first epochs of the loader.
        device: The device on which the teacher runs.
        part: The range of batches that this process fills; None for all.

    Yields:
        The number of examples processed so far, after each batch.

    Raises:
        LimbeckError: If `views` is not positive, the cache was made for something else, or another process fills it.
    """
    if views < 1:
        raise LimbeckError(f"views={views} must be 1 or more.")
    whole = Location(teacher.where)
    if part is None:
        join_parts(whole)
        if teacher.inputs:
            teacher.check(loader, preprocess)
            add_files(whole, input_files(loader))
        yield from _fill(teacher, loader, range(views), preprocess, device, batches=None)
        return
    teacher.check(loader, preprocess)
    mark_part(part, whole, done="")
    numbers = part.batches(_count_batches(loader))
    own = teacher.copy_at(part.location(whole).name)
    own.inputs = teacher.inputs and part.number == 1
    yield from _fill(own, loader, range(views), preprocess, device, numbers)
    mark_part(part, whole, done=f"{views} views")
    if are_all_parts_done(part, whole):
        try:
            join_parts(whole)
        except LimbeckError as error:  # such as: another process is joining them
            warnings.warn(f"{error} limbeck cache build joins the parts.", LimbeckWarning, stacklevel=2)


def _fill(
    teacher: CachedTeacher,
    loader: Epochs,
    views: Iterable[int],
    preprocess: Preprocess,
    device: torch.device,
    batches: range | None,
) -> Iterator[int]:
    """Fill a cache with the outputs for some of the batches of each view."""
    done, chance = 0, ChanceCheck(classes=teacher.classes)
    labels_are_own = not isinstance(teacher.inner, TranslatedTeacher)
    repair(Location(teacher.where))
    teacher.check(loader, preprocess)
    if teacher.through is not None and teacher.inner is not None:
        repair_head(Location(teacher.where), find_last_layer(teacher.inner, teacher.through))
    first, count = (0, None) if batches is None else (batches.start, len(batches))
    with teacher.open(TeacherContext(device=device, preprocess=preprocess, loader=loader)) as teacher_fn:
        for view in views:
            for batch in islice(loader.batches(view, first), count):
                outputs = teacher_fn(batch.to(device))
                if labels_are_own:
                    chance.update(batch, outputs)
                done += batch.size
                yield done
        chance.warn_if_not_better()


def _count_batches(loader: Epochs) -> int:
    """The number of batches of an epoch.

    Raises:
        LimbeckError: If it is not known.
    """
    if loader.examples_per_epoch is None or loader.batch_size is None:
        raise LimbeckError(
            f"The batches of a {type(loader).__name__} cannot be counted, so they cannot be split into parts. Leave "
            "part= out, or use ShuffledLoader(dataset, batch_size=...)."
        )
    return -(-loader.examples_per_epoch // loader.batch_size)


class CacheVerification(NamedTuple):
    """The difference between stored outputs and outputs that were computed again.

    Attributes:
        answers: The number of outputs that were compared.
        identical: The fraction whose records are bitwise identical.
        divergence: The mean KL in nats of the new output to the stored one, both after encoding and decoding, over
            positions where there are several; NaN for an encoding that stores no distribution.
        bytes: The fraction of the records' bytes that are equal.
    """

    answers: int
    identical: float
    divergence: float
    bytes: float

    @property
    def is_sampled(self) -> bool:
        """Whether the cache stores sampled classes, for which there is no KL."""
        return math.isnan(self.divergence)

    @property
    def same(self) -> bool:
        """Whether the outputs are the same, up to rounding, which depends on the batch size."""
        near = self.bytes >= _SAME if self.is_sampled else self.divergence <= _DIFFERENT
        return self.identical == 1 or near

    @property
    def distance_text(self) -> str:
        """The distance in words."""
        if self.is_sampled:
            return f"{100 * self.bytes:.1f} % of the bytes of the sampled classes are equal"
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
    """Compute the teacher's outputs for some examples again, and compare them with the stored ones.

    Args:
        teacher: The cached teacher.
        loader: The loader. The first examples of its epochs are used, so it should shuffle.
        preprocess: The function from a batch to inputs.
        sample: The least number of examples to compare.
        views: The views to choose from; each batch uses one of them, drawn at random.
        seed: The seed of that draw.
        device: The device on which the teacher runs.

    Raises:
        LimbeckError: If there is no teacher, or the output for an example is not stored.
    """
    if teacher.inner is None:
        raise LimbeckError("Verifying outputs needs the teacher itself: CachedTeacher(teacher, where).")
    store, size = CacheReader(teacher.where), loader.batch_size or 1
    teacher.check(loader, preprocess)  # raises if the cache belongs to another teacher or data set
    head = None if teacher.through is None else find_last_layer(teacher.inner, teacher.through)
    parts, count = list[CacheVerification](), 0
    addresses = query_addresses(frozenset({LOGITS}), head)
    context = TeacherContext(requires=addresses, device=device, preprocess=preprocess, loader=loader)
    with teacher.inner.open(context) as teacher_fn:
        for batch in _random_view_batches(loader, views, seed):
            if count >= sample:
                break
            parts.append(_compare_batch(store, teacher_fn, batch.to(device), size, head))
            count += batch.size
    means = (sum(part.answers * value for part, value in zip(parts, values, strict=True)) / max(count, 1)
             for values in list(zip(*parts, strict=True))[1:])  # fmt: skip
    return CacheVerification(count, *means) if parts else CacheVerification(0, 0.0, 0.0, 0.0)


def _random_view_batches(loader: Epochs, views: Sequence[int], seed: int) -> Iterator[Batch]:
    """The batches of an epoch, each in a view drawn from `views`."""
    if len(views) == 1:
        yield from loader.batches(views[0], 0)
        return
    draw, number = random.Random(seed), 0
    while (batch := next(loader.batches(draw.choice(views), number), None)) is not None:
        yield batch
        number += 1


def _compare_batch(
    store: CacheReader, teacher_fn: TeacherFn, batch: Batch, size: int, head: LastLayer | None
) -> CacheVerification:
    """Compare one batch's outputs with the stored ones."""
    address = LOGITS if head is None else head.address
    column = store.columns.get(address)
    if column is None:
        raise LimbeckError(f"The cache at {store.location.name} holds no logits to compare.")
    id = batch.id if batch.id is not None else torch.empty(0, dtype=torch.int64)
    view = torch.full_like(id, -1) if batch.view is None else batch.view
    rows = store.rows(id.cpu().numpy(), view.cpu().numpy())
    if len(rows) == 0 or rows.min() < 0:
        raise LimbeckError(f"The cache at {store.location.name} lacks outputs; complete it with limbeck cache build.")
    counted = stored_positions(batch, stored_masks(store.manifest))
    every = predict_padded(teacher_fn, batch, size)
    outputs = every.partial[address] if address in every.partial else every[address]
    now, (stored, counts) = (
        column.encode(outputs, id=id.cpu(), view=view.cpu(), counted=counted),
        store.spans(rows, address),
    )
    if len(now) != len(stored) or (
        counted is not None and column.positions is None and (counted.sum(1).numpy() != counts).any()
    ):
        raise LimbeckError(
            f"The outputs in the cache at {store.location.name} have other lengths than the examples have now. "
            "Build another cache."
        )
    decoded = [column.decode(records, (len(records),)) for records in (now, stored)]
    if head is not None:
        decoded = [head.logits(tensor.float()) if isinstance(tensor, Tensor) else tensor for tensor in decoded]
    same = now == stored
    whole = np.logical_and.reduceat(same.all(1), counts.cumsum() - counts)  # all positions of each example
    return CacheVerification(len(rows), float(whole.mean()), _mean_kl(*decoded), float(same.mean()))


def _mean_kl(now: object, stored: object) -> float:
    dense = [
        logits.spread(logits.temperature) if isinstance(logits, TopKLogits) else logits for logits in (now, stored)
    ]
    if not (isinstance(dense[0], Tensor) and isinstance(dense[1], Tensor)):
        return float(np.nan)
    return float(kl_divergence(dense[1], dense[0]).mean())
