"""In batches of which size is a teacher asked whose answers are to be kept?"""

from __future__ import annotations

import torch

from limbeck.signal import Batch, Signal
from limbeck.teachers.teacher import Answer


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


def _device(batch: Batch) -> torch.device:
    return batch.id.device if batch.id is not None else torch.device("cpu")
