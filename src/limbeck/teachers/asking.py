"""How is a teacher asked whose answers are to be kept: in batches of which size, and what if it cannot read them?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.signal import Batch, Signal
from limbeck.teachers.teacher import Answer, Teacher


def asked_whole(answer: Answer, batch: Batch, size: int) -> Signal:
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
    return Signal({address: tensor[: batch.size] for address, tensor in shown.items()})


@contextmanager
def first_asked(teacher: Teacher, batch: Batch) -> Iterator[None]:
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
            "Give reads=, the way from a batch to its inputs, to fill(), distill() or Live(): data.reads of "
            'a data set, lb.reads_of("teacher") of a student\'s folder, lb.Pixels(mean=..., std=...) of bytes.'
        ) from error


def _device(batch: Batch) -> torch.device:
    return batch.id.device if batch.id is not None else torch.device("cpu")
