"""What a loss remembers, where several processes each remember something else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from limbeck.engine.setting import Fabric
from limbeck.errors import LimbeckError
from limbeck.objective import Objective
from limbeck.recipe import Stage


def parted(stage: Stage, fabric: Fabric) -> Callable[[Objective], None] | None:
    """A check for after a stage's objective was tried; None where one process runs.

    Distributed strategies give the first rank's buffers to all before every step. So a memory bank that each rank
    writes its own examples to would lose all but the first rank's. What is made of the whole batch is alike on all.

    Raises:
        LimbeckError: When called, on every rank, if a buffer of the objective differs between ranks.
    """
    if fabric.world_size == 1:
        return None

    def check(objective: Objective) -> None:
        memory = _memory(objective)
        mine = torch.tensor([_mark(buffer) for buffer in memory.values()], dtype=torch.int64, device=fabric.device)
        if not len(mine):
            return
        all_marks: Any = fabric.all_gather(mine)
        apart = (all_marks != all_marks[0]).any(0).tolist()
        names = [name for name, differs in zip(memory, apart, strict=True) if differs]
        if names:
            raise LimbeckError(
                f"The objective of {stage.trains!r} remembers {', '.join(names[:3])}, and each of {fabric.world_size} "
                "processes something else: the first one's would be taken for all. Write it from the whole batch, by "
                'a kernel with per="batch" or "pair", which sees all processes\' examples; or run on one device.'
            )

    return check


def _memory(objective: nn.Module) -> dict[str, Tensor]:
    """The buffers of an objective by name, but for running statistics, which strategies take from one rank anyway."""
    return {
        f"{path}.{name}": buffer
        for path, module in objective.named_modules()
        if not isinstance(module, _BatchNorm)
        for name, buffer in module.named_buffers(recurse=False)
        if not is_lazy(buffer)
    }


def _mark(buffer: Tensor) -> int:
    data = buffer.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return int.from_bytes(hashlib.sha256(data).digest()[:7], "little")
