"""What a stage needs from a cache, and the keys of a batch's outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.batch import LOGITS, Batch, Outputs
from limbeck.cache import Column, Encoding, Keys, TeacherProvenance, encoding
from limbeck.errors import LimbeckError
from limbeck.teachers.output_layer import LastLayer, stored_addresses
from limbeck.teachers.teacher import Teacher, TeacherFn

_ITSELF = -1  # the view's number where an example is not augmented


def view_numbers(batch: Batch) -> NDArray[np.int64] | int:
    """Which views a batch holds."""
    return _ITSELF if batch.view is None else batch.view.cpu().numpy()


def batch_keys(batch: Batch) -> Keys:
    """Which answers a batch needs."""
    lengths, view = count_positions(batch), view_numbers(batch)
    id = batch.id.cpu().numpy() if batch.id is not None else np.empty(0, np.int64)
    views = np.full(len(id), view) if isinstance(view, int) else view
    return Keys(id, views, None if lengths is None else lengths.numpy())


def stored_positions(batch: Batch) -> Tensor | None:
    """Which positions of each example are kept, ``bool [batch, positions]``: those that count, and one where none does.

    So it does not matter on which side a text is padded, or beside which longer one it stood.
    """
    if batch.mask is None or batch.mask.ndim < 2:
        return None
    counted = batch.mask.bool().flatten(2).any(-1) if batch.mask.ndim > 2 else batch.mask.bool()
    counted = counted.cpu()
    none = ~counted.any(1)
    if bool(none.any()):
        counted = counted.clone()
        counted[none, 0] = True
    return counted


def count_positions(batch: Batch) -> Tensor | None:
    """How many positions of each example are kept."""
    counted = stored_positions(batch)
    return None if counted is None else counted.sum(1)


_FEATURES = "float16"


class CacheRequest(NamedTuple):
    """What a stage wants of a store.

    Attributes:
        requires: The addresses.
        also: Further ones that a new store is to keep: those of other stages.
        origin: What the answers must belong to; its precision and encodings are known when the first is there.
        encoding: How logits are kept.
        classes: Which dimension of them holds the classes.
        head: The layer whose inputs are kept in their place.
        batch_size: In batches of which size the teacher is asked.
        about: What a new store says of itself.
        shard_bytes: How big its files grow.
        looks: Whether answers are held against the inputs: a source may hand out other ones under the same ids.
    """

    requires: frozenset[str]
    also: frozenset[str]
    origin: TeacherProvenance
    encoding: Mapping[str, Any]
    classes: int
    head: LastLayer | None
    batch_size: int
    about: Mapping[str, Any]
    shard_bytes: int
    looks: bool = False

    @property
    def read(self) -> frozenset[str]:
        """The addresses that are read in the store."""
        return stored_addresses(self.requires, self.head)

    @property
    def kept(self) -> frozenset[str]:
        """The addresses that a new store keeps."""
        return stored_addresses(self.requires | self.also, self.head)

    def column(self, address: str, shown: Tensor, counted: Tensor | None) -> Column:
        """How answers like this one are laid out.

        Args:
            address: Where it was shown.
            shown: The answer to a batch.
            counted: Which positions of each example count, where that differs.

        Raises:
            LimbeckError: If it is one number for each example, or lacks the dimension of the classes.
        """
        axis = self.classes if address == LOGITS else -1
        if not -shown.ndim <= axis < shown.ndim:
            raise LimbeckError(f"classes={axis} is no dimension of logits of the shape {list(shown.shape)}.")
        if shown.ndim < 2:
            raise LimbeckError(f"At {address!r} is one number for each example, and what is kept is [batch, classes].")
        shape = shown.movedim(axis, -1).shape
        own = self.encoding_at(address, shape[-1])
        if counted is not None and len(shape) > 2:
            return Column(own, None, tuple(shape[2:-1]), axis)
        if not self._is_encoded(address):
            whole = tuple(shown.shape[1:])
            return Column(self.encoding_at(address, math.prod(whole)), (), (), -1, whole)
        return Column(own, tuple(shape[1:-1]), (), axis)

    def encoding_at(self, address: str, classes: int) -> Encoding:
        """How one row is kept there: logits, or what stands for them, as was asked for; features as float16."""
        return encoding(self.encoding if self._is_encoded(address) else _FEATURES, classes=classes)

    def _is_encoded(self, address: str) -> bool:
        return address == LOGITS or (self.head is not None and address == self.head.address)


def predict_padded(answer: TeacherFn, batch: Batch, size: int) -> Outputs:
    """The answers to a batch, asked in one of at least `size` examples.

    A smaller batch, such as an epoch's last, is filled up with its own examples: the last bits of a matrix product
    depend on how many rows it has, and an answer that is kept should not depend on where its example stood. (On a CPU,
    in batches of fewer than eight examples, they may depend on the place in the batch as well.)

    Args:
        answer: The open teacher.
        batch: The examples.
        size: How many examples other batches have.
    """
    if batch.size >= size:
        return answer(batch)
    filled = batch.rows(torch.arange(size, device=_device(batch)) % batch.size)
    shown = answer(filled)
    return Outputs({address: tensor[: batch.size] for address, tensor in shown.items()})


@contextmanager
def explain_first_batch_error(teacher: Teacher, batch: Batch) -> Iterator[None]:
    """A block in which what a network raises about its first batch becomes a sentence that says what to give.

    Raises:
        LimbeckError: In place of it.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        inputs = batch.inputs
        kind = f"{str(inputs.dtype).removeprefix('torch.')} {[*inputs.shape]}" if isinstance(inputs, Tensor) else ""
        said = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise LimbeckError(
            f"The teacher ({type(teacher).__name__}) cannot answer a batch of {kind or type(inputs).__name__}: {said}. "
            "Give preprocess=, the way from a batch to its inputs, to fill_cache(), distill() or "
            "ModelTeacher(): data.preprocess "
            'of a data set, lb.preprocess_of("teacher") of a student\'s folder, '
            "lb.NormalizeImages(mean=..., std=...) of bytes."
        ) from error


def _device(batch: Batch) -> torch.device:
    return batch.id.device if batch.id is not None else torch.device("cpu")
