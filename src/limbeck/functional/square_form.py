"""Sums of squared differences, and their gradients in closed form."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.functional.closed_form import squares
from limbeck.functional.rows import graph_is_kept, inside_transform

_FEW = 1 << 15
"""Values of a batch below which a Python function in the backward pass costs more than it saves."""


def mean_of_squares(student: Tensor, teacher: Tensor, dims: int) -> Tensor:
    """The mean of ``(student - teacher)^2`` over the last `dims` dimensions."""
    if dims > 1:
        student, teacher = student.flatten(-dims), teacher.flatten(-dims)
    found = ordinary_sum_of_squares(student, teacher, 1 / max(1, student.shape[-1]), centred=False)
    return squares(student - teacher).mean(-1) if found is None else found


def ordinary_sum_of_squares(student: Tensor, teacher: Tensor, factor: float, *, centred: bool) -> Tensor | None:
    """``factor * sum((student - teacher)^2)`` over the last dimension, perhaps of differences less their mean.

    None where it is not finite, on an accelerator, where asking would wait, and inside vmap and torch.compile.
    """
    if student.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    try:
        if not centred and student.numel() < _FEW:
            value = F.mse_loss(student, teacher, reduction="none").mean(-1)
            value = value if factor * student.shape[-1] == 1 else value * (factor * student.shape[-1])
        else:
            value = _Squares.apply(student, teacher, factor, centred)
        return value if math.isfinite(float(value.detach().sum())) else None
    except RuntimeError:  # inside vmap, grad, jacrev, ... of torch.func
        if not inside_transform(student, teacher):
            raise
        return None


class _Squares(torch.autograd.Function):
    """The difference is kept: the backward pass only scales it."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, factor: float, centred: bool) -> Tensor:
        difference = student - teacher
        if centred:
            difference.sub_(difference.mean(-1, keepdim=True))
        ctx.factor, ctx.centred = factor, centred
        ctx.save_for_backward(student, teacher, difference)
        return torch.linalg.vector_norm(difference, dim=-1).square_().mul_(factor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        student, teacher, difference = ctx.saved_tensors
        by_student, by_teacher = ctx.needs_input_grad[:2]
        scale = grad.unsqueeze(-1) * (2 * ctx.factor)
        if torch.is_grad_enabled():
            difference = student - teacher
            if ctx.centred:
                difference = difference - difference.mean(-1, keepdim=True)
            slope = difference * scale
        else:
            slope = torch.mul(difference, scale, out=None if graph_is_kept(grad) else difference)
        return slope if by_student else None, -slope if by_teacher else None, None, None
