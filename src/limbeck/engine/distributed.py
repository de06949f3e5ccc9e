"""Synchronization of ranks, and gathering and loading of sharded weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from limbeck.engine.train_config import Fabric
from limbeck.errors import LimbeckError, LimbeckWarning
from limbeck.random_seeds import derive_seed
from limbeck.recipe import Stage
from limbeck.teachers import TeacherRef

_STUDENT, _HEADS = "tapped.model.", "objective."


def is_sharded(fabric: Fabric) -> bool:
    """Whether the strategy spreads one model's parameters over devices (FSDP, or Fabric's model-parallel strategy)."""
    from lightning_fabric.strategies import FSDPStrategy, ModelParallelStrategy

    return isinstance(fabric.strategy, (FSDPStrategy, ModelParallelStrategy))


def copy_for_sharding(model: nn.Module, stage: Stage) -> nn.Module:
    """A copy of the student for sharding; the run's own model stays complete and is updated at every report.

    Raises:
        LimbeckError: If the stage's teacher follows the student during training: it would read the complete model,
            which is updated only at reports.
    """
    teacher = stage.teacher
    if teacher is not None and (
        teacher.capabilities.changes or (isinstance(teacher, TeacherRef) and teacher.name == stage.trains)
    ):
        raise LimbeckError(
            f"{type(teacher).__name__} follows a model while it learns, and a sharded strategy has that model in "
            "pieces. Use strategy='ddp' for this method."
        )
    # fully_shard refuses weights that are stored with the channels last.
    contiguous: nn.Module = copy.deepcopy(model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return contiguous


def whole_state(student_with_loss: Any, optimizer: Any) -> dict[str, Any]:
    """The complete state of student, heads and optimizer on every rank; a collective call for all ranks."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_model_state_dict,
        get_optimizer_state_dict,
    )

    # Full tensors in place of shards: they do not depend on the number of ranks.
    options = StateDictOptions(full_state_dict=True)
    module, plain = student_with_loss._forward_module, optimizer.optimizer
    tensors = get_model_state_dict(module, options=options)
    return {
        "student": _under(_STUDENT, tensors),
        "heads": _under(_HEADS, tensors),
        "optimizer": get_optimizer_state_dict(module, plain, options=options),
    }


def load_whole_state(student_with_loss: Any, optimizer: Any, state: Mapping[str, Any]) -> None:
    """Shard a complete state over the ranks; every rank must pass it."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        set_model_state_dict,
        set_optimizer_state_dict,
    )

    options = StateDictOptions(full_state_dict=True)
    module, plain = student_with_loss._forward_module, optimizer.optimizer
    tensors = {
        **{_STUDENT + name: value for name, value in state["student"].items()},
        **{_HEADS + name: value for name, value in state["heads"].items()},
    }
    set_model_state_dict(module, tensors, options=options)
    set_optimizer_state_dict(module, plain, state["optimizer"], options=options)


def _under(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


@torch.no_grad()
def broadcast_buffers(module: nn.Module, fabric: Fabric) -> None:
    """Give the first rank's buffers, such as the running statistics of BatchNorm, to all ranks.

    DistributedDataParallel does so only before a forward pass. Until then the ranks differ, and a teacher that averages
    the student, a peer in eval mode or the next generation's teacher would read different values. A resumed run has
    the first rank's buffers on all ranks.
    """
    if fabric.world_size == 1:
        return
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for buffer in module.buffers():
        if type(buffer) is Tensor and not is_lazy(buffer) and buffer.numel():
            by_type.setdefault(buffer.dtype, []).append(buffer)
    # One broadcast per dtype, because models have many small buffers and each call has a fixed cost.
    for buffers in by_type.values():
        flat = torch.cat([buffer.reshape(-1).to(fabric.device) for buffer in buffers])
        torch.distributed.broadcast(flat, src=0)
        for buffer, values in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(values.view_as(buffer))


def gather_states(state: Mapping[str, Any], fabric: Fabric) -> list[dict[str, Any]]:
    """The state of every rank, in order; a collective call, so every rank must make it."""
    if fabric.world_size == 1:
        return [dict(state)]
    gathered: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(gathered, dict(state))
    return gathered


def seed_of_rank(seed: int, fabric: Fabric) -> int:
    """The seed of a rank; the first rank has the run's own seed, as on one device."""
    return derive_seed(seed, f"rank {fabric.global_rank}") if fabric.global_rank else seed


def random_of_rank(state: Mapping[str, Any], fabric: Fabric) -> Mapping[str, Any] | None:
    """This rank's random state in a checkpoint; None if fewer ranks wrote it than there are now."""
    others: list[Mapping[str, Any]] = state.get("random_of_other_ranks", [])
    if len(others) + 1 != fabric.world_size and not state["finished"] and fabric.is_global_zero:
        warnings.warn(
            f"The checkpoint holds the random numbers of {len(others) + 1} process(es), and the run continues "
            f"with {fabric.world_size}: its result will differ from that of an uninterrupted run.",
            LimbeckWarning,
            stacklevel=2,
        )
    each = [state["random"], *others]
    return each[fabric.global_rank] if fabric.global_rank < len(each) else None


@contextmanager
def lost_rank_explained(fabric: Fabric) -> Iterator[None]:
    """A block that turns the failure of another rank into a readable error.

    Raises:
        LimbeckError: In place of the backend's error. NCCL's errors have a type; Gloo's are recognized by their text.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        lost = (
            isinstance(error, torch.distributed.DistError)
            or "gloo/" in text
            or "Connection closed by peer" in text
            or "Connection reset by peer" in text
        )
        if fabric.world_size == 1 or not lost:
            raise
        raise LimbeckError(
            f"Another of the {fabric.world_size} processes of this run has ended: it was killed, perhaps because "
            "memory was full, or it printed an error. The last checkpoint is complete. To continue from it, start all "
            "processes again with resume=True, or with the same command."
        ) from error
