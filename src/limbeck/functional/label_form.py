"""The cross-entropy of smoothed labels, and its gradient in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from limbeck.functional.closed_form import log_softmax
from limbeck.functional.rows import graph_is_kept


def smoothed_cross_entropy(student: Tensor, labels: Tensor, smoothing: float, ignored: int) -> Tensor | None:
    """``-sum_c target_c log softmax(student)_c`` of finite logits on a CPU; None inside transforms, and for no class.

    A label that is `ignored` gives 0, in the value and in the gradient.
    """
    try:
        value: Tensor = _Smoothed.apply(student, labels, smoothing, ignored)
        return value
    except (RuntimeError, IndexError):  # inside vmap, grad, ... of torch.func; an index out of bounds
        return None


class _Smoothed(torch.autograd.Function):
    """The slope is ``softmax(student) - target``: only log-probabilities are kept."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, labels: Tensor, smoothing: float, ignored: int) -> Tensor:
        log_q = log_softmax(student)
        known = labels != ignored
        all_known = bool(known.all())
        at = (labels if all_known else labels.masked_fill(~known, 0)).unsqueeze(-1)
        value = log_q.gather(-1, at).squeeze(-1).mul_(smoothing - 1)
        if smoothing:
            value.sub_(log_q.sum(-1), alpha=smoothing / student.shape[-1])
        if not all_known:
            value.masked_fill_(~known, 0.0)
        ctx.smoothing = smoothing
        ctx.save_for_backward(student, log_q, at, None if all_known else known)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None]:
        student, log_q, at, known = ctx.saved_tensors
        scale = (grad if known is None else grad.masked_fill(~known, 0.0)).unsqueeze(-1)
        if torch.is_grad_enabled():
            slope = torch.softmax(student, -1)
        else:
            slope = torch.exp(log_q, out=None if graph_is_kept(grad) else log_q)
        less = slope.new_full((), ctx.smoothing - 1).expand(at.shape)
        if torch.is_grad_enabled():
            slope = slope.sub(ctx.smoothing / slope.shape[-1]).scatter_add(-1, at, less) * scale
        else:
            slope.sub_(ctx.smoothing / slope.shape[-1]).scatter_add_(-1, at, less)
            slope = torch.mul(slope, scale, out=None if graph_is_kept(grad) else slope)
        return slope, None, None, None
