"""Sums and rows over all ranks of distributed training."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """The number of ranks that share the batch; 1 without distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this rank; 0 without distributed training."""
    return dist.get_rank() if world_size() > 1 else 0


def all_gather_objects(value: Any) -> list[Any]:
    """The values of all ranks, in order; a collective call, so every rank must make it."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def all_reduce_sum(number: float) -> float:
    """Sum `number` over all ranks."""
    if world_size() == 1:
        return number
    total = torch.tensor(number, dtype=torch.float64, device=rank_device())
    dist.all_reduce(total)
    return float(total)


def all_reduce_tensor(tensor: Tensor) -> Tensor:
    """Sum `tensor` over all ranks, without gradients; the tensor itself with one rank."""
    if world_size() == 1:
        return tensor
    total = tensor.detach().to(rank_device(), copy=True).contiguous()
    dist.all_reduce(total)
    return total.to(tensor.device)


def all_gather(tensor: Tensor) -> Tensor:
    """Gather the rows of all ranks in rank order, with gradients. Ranks may have different numbers of rows."""
    if world_size() == 1:
        return tensor
    from torch.distributed.nn.functional import all_gather as gather

    sizes = [torch.zeros(1, dtype=torch.int64, device=tensor.device) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(tensor)], device=tensor.device))
    rows = [int(size) for size in sizes]
    # all_gather needs tensors of equal shape, so shorter ones are padded.
    filled = torch.cat([tensor, tensor.new_zeros(max(rows) - len(tensor), *tensor.shape[1:])])
    parts = cast(Any, gather(filled.contiguous()))
    return torch.cat([part[:size] for part, size in zip(parts, rows, strict=True)])


def rank_device() -> torch.device:
    """The device that the communication backend can send from."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
