"""Synchronize trainable heads between processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

from limbeck.losses import rank_device, world_size


def broadcast_heads(heads: nn.Module) -> None:
    """Copy the heads of the first process to all others."""
    if world_size() > 1:
        for tensor in heads.state_dict().values():
            sent = tensor.to(rank_device())
            dist.broadcast(sent, src=0)
            tensor.copy_(sent)


def average_gradients(heads: nn.Module) -> None:
    """Average the heads' gradients over all processes, as strategies do for the model that they wrap."""
    if world_size() == 1:
        return
    for parameter in heads.parameters():
        if parameter.requires_grad:
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            total = own.to(rank_device())
            dist.all_reduce(total)
            parameter.grad = (total / world_size()).to(parameter.device)
