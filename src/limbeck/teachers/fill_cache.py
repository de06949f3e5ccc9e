"""`fill_cache`: computes all outputs of a teacher and stores them before training."""

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
) -> Iterator[int]:
    """Compute and store the outputs that a cache lacks, for `views` views of every example.

    It can be stopped at any time: the next call goes on after the outputs that are on disk. Damaged outputs are
    dropped with a warning and computed again. A warning says so if the teacher is no better than chance on the first
    thousand labeled examples.

    Args:
        teacher: The cached teacher.
        loader: The loader of the examples.
        preprocess: The function from a batch to inputs.
        views: The number of views of each example: the first epochs of the loader.
        device: The device on which the teacher runs.

    Yields:
        The number of examples processed so far, after each batch.
    """
    if views < 1:
        raise LimbeckError(f"views={views} must be 1 or more.")
    done, chance = 0, ChanceCheck(classes=teacher.classes)
    repair(Location(teacher.where))
    teacher.attach_loader(loader, preprocess)
    if teacher.through is not None and teacher.inner is not None:
        repair_head(Location(teacher.where), find_last_layer(teacher.inner, teacher.through))
    with teacher.prepare(frozenset({LOGITS}), device=device, preprocess=preprocess) as teacher_fn:
        for view in range(views):
            for batch in loader.batches(view, 0):
                chance.update(batch, teacher_fn(batch.to(device)))
                done += batch.size
                yield done
        chance.warn_if_not_better()
