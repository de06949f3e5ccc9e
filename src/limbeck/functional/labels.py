"""Cross-entropy with labels, plain and smoothed."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.functional.blockwise import inside_transform
from limbeck.functional.closed_form import is_well_scaled, log_softmax, nonzero_mask
from limbeck.functional.kernel import kernel, validates_student

_REGISTER = 16  # float32 values


def smoothed_cross_entropy(student: Tensor, labels: Tensor, smoothing: float, ignored: int) -> Tensor | None:
    """Compute ``-sum_c target_c log softmax(student)_c`` for finite logits on a CPU and `smoothing` above 0.

    An `ignored` label gives a value and a gradient of 0. The result is None if a logit is not finite, inside
    transforms, and without classes.
    """
    if not student.shape[-1]:
        return None
    try:
        value: Tensor | None = _Smoothed.apply(student, labels, smoothing, ignored)
        return value
    except RuntimeError:  # inside vmap, grad, ... of torch.func; an index out of bounds
        if not inside_transform(student, labels) and _are_classes(labels, student.shape[-1], ignored):
            raise  # such as out of memory
        return None


def _are_classes(labels: Tensor, classes: int, ignored: int) -> bool:
    return bool((((labels >= 0) & (labels < classes)) | (labels == ignored)).all())


class _Smoothed(torch.autograd.Function):
    """The gradient is ``softmax(student) - target``; only log-probabilities are saved."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, labels: Tensor, smoothing: float, ignored: int) -> Tensor | None:
        log_q = log_softmax(student)
        labeled = labels != ignored
        all_labeled = bool(labeled.all())
        at = (labels if all_labeled else labels.masked_fill(~labeled, 0)).unsqueeze(-1)
        value = log_q.gather(-1, at).squeeze(-1).mul_(smoothing - 1)
        value.sub_(log_q.sum(-1), alpha=smoothing / student.shape[-1])
        if not math.isfinite(float(value.sum())):  # the sum of a row contains every logit
            return None
        if not all_labeled:
            value.masked_fill_(~labeled, 0.0)
        ctx.smoothing = smoothing
        ctx.save_for_backward(student, log_q, at, None if all_labeled else labeled)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None]:
        student, log_q, at, labeled = ctx.saved_tensors
        scale = (grad if labeled is None else grad.masked_fill(~labeled, 0.0)).unsqueeze(-1)
        by_class, by_label = scale * (-ctx.smoothing / student.shape[-1]), scale * (ctx.smoothing - 1)
        if torch.is_grad_enabled() or inside_transform(grad):
            slope = torch.softmax(student, -1) * scale + by_class
            return slope.scatter_add(-1, at, by_label), None, None, None
        if student.shape[-1] < _REGISTER:  # the fused operation below is not vectorized for short rows
            slope = torch.exp(log_q).mul_(scale).add_(by_class)
            return slope.scatter_add_(-1, at, by_label), None, None, None
        # The backward pass of log-softmax does the rest in one pass, with a faster exponential than torch.exp.
        slope = by_class.expand(log_q.shape).contiguous().scatter_add_(-1, at, by_label)
        torch.ops.aten._log_softmax_backward_data.out(slope, log_q, -1, slope.dtype, out=slope)
        return slope, None, None, None


_IGNORED = -100


@kernel(per="position")
@validates_student
def cross_entropy(
    student: Float[Tensor, "*batch classes"], *, labels: Integer[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """Compute the cross-entropy of the labels: ``-log softmax(student)[label]`` in nats, one value per row.

    It needs no teacher. A label of -100 means no label: value and gradient are 0. A column that is -inf contributes
    nothing, unless it is the label; then the value is infinite.

    Args:
        student: Logits of the student.
        labels: Class indices from 0 to classes - 1, or -100.

    Raises:
        LimbeckError: If labels and logits do not match in shape, or (on the CPU) a label is not a class of the student.

    Example:
        >>> import torch
        >>> cross_entropy(torch.tensor([[0.0, 0.0], [3.0, 1.0]]), labels=torch.tensor([1, -100]))
        tensor([0.6931, 0.0000])
    """
    finite = is_well_scaled(student)
    return _picked(student, log_softmax(student if finite else nonzero_mask(student)), labels, finite)


@kernel(per="position")
@validates_student
def label_smoothing(
    student: Float[Tensor, "*batch classes"], *, labels: Integer[Tensor, "*batch"], smoothing: float = 0.1
) -> Float[Tensor, "*batch"]:
    """Compute the cross-entropy of smoothed labels: ``-sum_c target_c log softmax(student)_c``.

    There is one value per row, in nats. ``target = (1 - s) onehot(label) + s / C`` with s the `smoothing` and C the
    number of classes. A column that is -inf does not count as a class. At s = 0 it is `cross_entropy`; at s = 1 the
    label has no effect. For s above 0 its minimum is the entropy of the target, not 0. A label of -100 gives 0.

    Args:
        student: Logits of the student.
        labels: Class indices from 0 to classes - 1, or -100.
        smoothing: s, the weight of the uniform distribution in the target, from 0 to 1.

    Raises:
        LimbeckError: If labels and logits do not match in shape, `smoothing` is not in [0, 1], or (on the CPU) a label
            is not a class of the student.

    Example:
        >>> import torch
        >>> label_smoothing(torch.tensor([[3.0, 1.0]]), labels=torch.tensor([0]), smoothing=0.1)
        tensor([0.2269])

    Source: Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2015, arXiv:1512.00567.
    """
    on_cpu = student.device.type == "cpu" and not torch.compiler.is_compiling()
    if smoothing and on_cpu and labels.shape == student.shape[:-1] and not labels.is_floating_point():
        value = smoothed_cross_entropy(student, labels.long(), smoothing, _IGNORED)
        if value is not None:
            return value
    finite = is_well_scaled(student)
    log_q = log_softmax(student if finite else nonzero_mask(student))
    by_label = _picked(student, log_q, labels, finite)
    if finite:
        uniform = -log_q.sum(-1) / student.shape[-1]
    else:
        masked = student == -torch.inf
        uniform = -log_q.masked_fill(masked, 0.0).sum(-1) / (~masked).sum(-1).clamp_min(1)
    uniform = uniform.masked_fill(labels == _IGNORED, 0.0)
    # At 1 a label in a masked column would be 0 * inf.
    return uniform if smoothing == 1 else (1 - smoothing) * by_label + smoothing * uniform


def _picked(student: Tensor, log_q: Tensor, labels: Tensor, finite: bool) -> Tensor:
    """Compute minus log_q at the labels; infinite where the student is -inf, unless `finite`."""
    if labels.shape != log_q.shape[:-1]:
        raise LimbeckError(
            f"labels of shape {tuple(labels.shape)} do not match logits of shape {tuple(log_q.shape)}: there is one "
            "label for each row, and classes are the last dimension."
        )
    if labels.is_floating_point():
        raise LimbeckError(
            f"labels must be class indices (whole numbers); got {str(labels.dtype).removeprefix('torch.')}. "
            "Convert them with .long(). For class probabilities use kl_divergence()."
        )
    try:
        value = _negated(log_q, labels)
    except IndexError as error:
        raise _no_class(labels, log_q.shape[-1]) from error
    # -inf was replaced by a floor for finite gradients, but the value must be infinite there.
    return value if finite else value.masked_fill(_negated(student.detach(), labels) == torch.inf, torch.inf)


def _negated(rows: Tensor, labels: Tensor) -> Tensor:
    """Take minus the value of each row at its label; 0 without a label."""
    if rows.ndim == 2:
        return F.nll_loss(rows, labels.long(), reduction="none", ignore_index=_IGNORED)
    return _negated(rows.reshape(-1, rows.shape[-1]), labels.reshape(-1)).view(labels.shape)


def _no_class(labels: Tensor, classes: int) -> LimbeckError:
    outside = labels[((labels < 0) & (labels != _IGNORED)) | (labels >= classes)]
    return LimbeckError(
        f"Label {outside.flatten()[0].item()} is no class of a student with {classes} logits: labels run from 0 to "
        f"{classes - 1}, and {_IGNORED} means no label. Give the student one logit for each class, or map the labels."
    )
