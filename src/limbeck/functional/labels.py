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
from limbeck.functional.kernel import kernel
from limbeck.functional.validation import validates_student

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
        labeled = labels != ignored
        all_labeled = bool(labeled.all())
        at = (labels if all_labeled else labels.masked_fill(~labeled, 0)).unsqueeze(-1)
        value = log_q.gather(-1, at).squeeze(-1).mul_(smoothing - 1)
        value.sub_(log_q.sum(-1), alpha=smoothing / student.shape[-1])
        if not math.isfinite(float(value.sum())):  # every logit is in its row's sum
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
        if student.shape[-1] < _REGISTER:  # numbers that lie side by side go one at a time in what follows
            slope = torch.exp(log_q).mul_(scale).add_(by_class)
            return slope.scatter_add_(-1, at, by_label), None, None, None
        # What the log-softmax itself makes of this gradient, in one pass, with a faster exponential than torch.exp.
        slope = by_class.expand(log_q.shape).contiguous().scatter_add_(-1, at, by_label)
        torch.ops.aten._log_softmax_backward_data.out(slope, log_q, -1, slope.dtype, out=slope)
        return slope, None, None, None


_IGNORED = -100


@kernel(per="position")
@validates_student
def cross_entropy(
    student: Float[Tensor, "*batch classes"], *, labels: Integer[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """The cross-entropy of the labels: ``-log softmax(student)[label]`` in nats, one value for each row.

    It reads no teacher. A label of -100 means that there is none: the value and its gradient are 0 there. A column that
    is -inf contributes nothing, unless it is the label's: then the value is infinite.

    Args:
        student: Logits of the student.
        labels: Class indices from 0 to classes - 1, or -100.

    Raises:
        LimbeckError: If labels and logits do not match in shape, or (on the CPU) a label is no class of the student.

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
    """The cross-entropy of smoothed labels: ``-sum_c target_c log softmax(student)_c`` in nats, one value for each row.

    ``target = (1 - s) onehot(label) + s / C`` with s the `smoothing` and C the number of classes. A column that is -inf
    is no class: it gets none of the uniform share, and C counts the others. At s = 0 it is `cross_entropy`; at s = 1
    the label is not read. For s above 0 its least value is the entropy of the target, not 0. A label of -100 gives 0.

    Args:
        student: Logits of the student.
        labels: Class indices from 0 to classes - 1, or -100.
        smoothing: s, the share of the uniform distribution in the target, from 0 to 1.

    Raises:
        LimbeckError: If labels and logits do not match in shape, `smoothing` is not in [0, 1], or (on the CPU) a label
            is no class of the student.

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
    """Minus log_q at the labels; infinite where the student is -inf there, unless it is known to be finite."""
    if labels.shape != log_q.shape[:-1]:
        raise LimbeckError(
            f"labels of shape {tuple(labels.shape)} do not match logits of shape {tuple(log_q.shape)}: there is one "
            "label for each row, and classes are the last dimension."
        )
    if labels.is_floating_point():
        raise LimbeckError(
            f"labels are class indices, whole numbers; these are {str(labels.dtype).removeprefix('torch.')}. "
            "Convert them with .long(); probabilities of classes are a teacher's: kl_divergence()."
        )
    try:
        value = _negated(log_q, labels)
    except IndexError as error:
        raise _no_class(labels, log_q.shape[-1]) from error
    # -inf was raised to a floor for the sake of gradients; a label there is infinitely unlikely all the same.
    return value if finite else value.masked_fill(_negated(student.detach(), labels) == torch.inf, torch.inf)


def _negated(rows: Tensor, labels: Tensor) -> Tensor:
    """Minus what each row holds at its label; 0 where there is none."""
    if rows.ndim == 2:
        return F.nll_loss(rows, labels.long(), reduction="none", ignore_index=_IGNORED)
    return _negated(rows.reshape(-1, rows.shape[-1]), labels.reshape(-1)).view(labels.shape)


def _no_class(labels: Tensor, classes: int) -> LimbeckError:
    outside = labels[((labels < 0) & (labels != _IGNORED)) | (labels >= classes)]
    return LimbeckError(
        f"Label {outside.flatten()[0].item()} is no class of a student with {classes} logits: labels run from 0 to "
        f"{classes - 1}, and {_IGNORED} means no label. Give the student one logit for each class, or map the labels."
    )
