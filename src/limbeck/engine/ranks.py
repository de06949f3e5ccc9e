"""Keeping the ranks of a run alike: their buffers, and the random numbers of each in one checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from limbeck.engine.setting import Fabric
from limbeck.errors import LimbeckError, LimbeckWarning
from limbeck.seeds import derive_seed


@torch.no_grad()
def broadcast_buffers(module: nn.Module, fabric: Fabric) -> None:
    """Give the first rank's buffers, such as the running statistics of BatchNorm, to all ranks.

    DistributedDataParallel does so before a forward pass only. Until then each rank holds values of its own, and a
    teacher that averages the student, a peer in eval mode or the next generation's teacher would read them; a run that
    is resumed holds the first rank's on all.
    """
    if fabric.world_size == 1:
        return
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for buffer in module.buffers():
        if type(buffer) is Tensor and not is_lazy(buffer) and buffer.numel():
            by_type.setdefault(buffer.dtype, []).append(buffer)
    for buffers in by_type.values():
        flat = torch.cat([buffer.reshape(-1).to(fabric.device) for buffer in buffers])
        torch.distributed.broadcast(flat, src=0)
        for buffer, values in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(values.view_as(buffer))


def gather_states(state: Mapping[str, Any], fabric: Fabric) -> list[dict[str, Any]]:
    """Every rank's state, in the order of the ranks; all must ask at the same time."""
    if fabric.world_size == 1:
        return [dict(state)]
    gathered: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(gathered, dict(state))
    return gathered


def seed_of_rank(seed: int, fabric: Fabric) -> int:
    """What a rank's random numbers start from: on the first rank, as on one device, the run's own seed."""
    return derive_seed(seed, f"rank {fabric.global_rank}") if fabric.global_rank else seed


def random_of_rank(state: Mapping[str, Any], fabric: Fabric) -> Mapping[str, Any] | None:
    """This rank's random numbers in a checkpoint, or None where it was written by fewer ranks than there are now."""
    others: list[Mapping[str, Any]] = state.get("random_of_other_ranks", [])
    if len(others) + 1 != fabric.world_size and not state["finished"] and fabric.is_global_zero:
        warnings.warn(
            f"The checkpoint holds the random numbers of {len(others) + 1} process(es), and the run goes on with "
            f"{fabric.world_size}: it will not end in the same bits as a run that was never stopped.",
            LimbeckWarning,
            stacklevel=2,
        )
    each = [state["random"], *others]
    return each[fabric.global_rank] if fabric.global_rank < len(each) else None


@contextmanager
def lost_rank_explained(fabric: Fabric) -> Iterator[None]:
    """A block in which the end of another rank becomes a sentence.

    Raises:
        LimbeckError: In place of what the transport says. NCCL's errors have a type; Gloo's are told by their text.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        typed = isinstance(error, getattr(torch.distributed, "DistError", ()))
        lost = typed or "gloo/" in text or "Connection closed by peer" in text or "Connection reset by peer" in text
        if fabric.world_size == 1 or not lost:
            raise
        raise LimbeckError(
            f"Another of the {fabric.world_size} processes of this run has ended: it was killed, perhaps for want of "
            "memory, or has printed an error of its own. The last checkpoint is whole: start all of them again with "
            "resume=True, or the same command, to go on from it."
        ) from error
