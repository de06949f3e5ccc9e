"""The cross-entropy of smoothed labels, and its gradient in closed form."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from limbeck.functional.closed_form import log_softmax
from limbeck.functional.rows import inside_transform

_REGISTER = 16  # float32 values


def smoothed_cross_entropy(student: Tensor, labels: Tensor, smoothing: float, ignored: int) -> Tensor | None:
    """``-sum_c target_c log softmax(student)_c`` of finite logits on a CPU, for `smoothing` above 0.

    A label that is `ignored` gives 0, in the value and in the gradient. None where a logit is not finite, inside
    transforms, and for no class.
    """
    if not student.shape[-1]:
        return None
    try:
        value: Tensor | None = _Smoothed.apply(student, labels, smoothing, ignored)
        return value
    except RuntimeError:  # inside vmap, grad, ... of torch.func; an index out of bounds
        if not inside_transform(student, labels) and _are_classes(labels, student.shape[-1], ignored):
            raise  # such as a lack of memory
        return None


def _are_classes(labels: Tensor, classes: int, ignored: int) -> bool:
    return bool((((labels >= 0) & (labels < classes)) | (labels == ignored)).all())


class _Smoothed(torch.autograd.Function):
    """The slope is ``softmax(student) - target``: only log-probabilities are kept."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, labels: Tensor, smoothing: float, ignored: int) -> Tensor | None:
        log_q = log_softmax(student)
        known = labels != ignored
        all_known = bool(known.all())
        at = (labels if all_known else labels.masked_fill(~known, 0)).unsqueeze(-1)
        value = log_q.gather(-1, at).squeeze(-1).mul_(smoothing - 1)
        value.sub_(log_q.sum(-1), alpha=smoothing / student.shape[-1])
        if not math.isfinite(float(value.sum())):  # every logit is in its row's sum
            return None
        if not all_known:
            value.masked_fill_(~known, 0.0)
        ctx.smoothing = smoothing
        ctx.save_for_backward(student, log_q, at, None if all_known else known)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None]:
        student, log_q, at, known = ctx.saved_tensors
        scale = (grad if known is None else grad.masked_fill(~known, 0.0)).unsqueeze(-1)
        by_class, by_label = scale * (-ctx.smoothing / student.shape[-1]), scale * (ctx.smoothing - 1)
        if torch.is_grad_enabled() or inside_transform(grad):
            slope = torch.softmax(student, -1) * scale + by_class
            return slope.scatter_add(-1, at, by_label), None, None, None
        if student.shape[-1] < _REGISTER:  # numbers that lie side by side go one at a time in what follows
            slope = torch.exp(log_q).mul_(scale).add_(by_class)
            return slope.scatter_add_(-1, at, by_label), None, None, None
        # What the log-softmax itself makes of this gradient, in one pass, with a faster exponential than torch.exp.
        slope = by_class.expand(log_q.shape).contiguous().scatter_add_(-1, at, by_label)
        torch.ops.aten._log_softmax_backward_data.out(slope, log_q, -1, slope.dtype, out=slope)
        return slope, None, None, None
