"""`fill_cache`: all outputs of a teacher computed and stored before training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch

from limbeck.batch import LOGITS, Batch
from limbeck.cache import Location, repair
from limbeck.errors import LimbeckError
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.chance import ChanceCheck
from limbeck.teachers.output_layer import find_last_layer, repair_head
from limbeck.teachers.teacher import Preprocess, Stream, read_inputs

_CPU = torch.device("cpu")


@runtime_checkable
class Epochs(Stream, Protocol):
    """A stream whose epochs can be gone through: a `limbeck.data.TorchLoader`."""

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
) -> Iterator[int]:
    """Ask about every example of a source, in as many views, whatever the store does not hold yet.

    Stopped at any time, it goes on where it was, save for what was not yet on disk. Answers that were damaged meanwhile
    are dropped, with a warning, and asked again. A teacher that is no better than chance on the labeled ones is said
    to be so, after a thousand of them.

    Args:
        teacher: Who answers, and where the answers are kept.
        loader: The examples.
        preprocess: The way from a batch to inputs.
        views: How many views of each; the first epochs of the source.
        device: Where the teacher runs.

    Yields:
        How many examples have been looked at, after each batch.
    """
    if views < 1:
        raise LimbeckError(f"views={views}: at least one view of each example is asked about.")
    done, chance = 0, ChanceCheck(classes=teacher.classes)
    repair(Location(teacher.where))
    teacher.attach_loader(loader, preprocess)
    if teacher.through is not None and teacher.inner is not None:
        repair_head(Location(teacher.where), find_last_layer(teacher.inner, teacher.through))
    with teacher.prepare(frozenset({LOGITS}), device=device, preprocess=preprocess) as answer:
        for view in range(views):
            for batch in loader.batches(view, 0):
                chance.update(batch, answer(batch.to(device)))
                done += batch.size
                yield done
        chance.warn_if_not_better()
