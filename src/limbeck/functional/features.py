"""Squared errors between student and teacher values: features, logits, probabilities, hidden states."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from limbeck.functional.blockwise import inside_transform, keeps_graph
from limbeck.functional.closed_form import nonzero_mask, rows_with_infinite_kl, squares
from limbeck.functional.kernel import kernel, validates_pair

_FEW = 1 << 15

"""The number of values below which a custom backward pass is slower."""


def mean_of_squares(student: Tensor, teacher: Tensor, dims: int) -> Tensor:
    """Compute the mean of ``(student - teacher)^2`` over the last `dims` dimensions."""
    if dims > 1:
        student, teacher = student.flatten(-dims), teacher.flatten(-dims)
    mean = ordinary_sum_of_squares(student, teacher, 1 / max(1, student.shape[-1]), centered=False)
    return squares(student - teacher).mean(-1) if mean is None else mean


def ordinary_sum_of_squares(student: Tensor, teacher: Tensor, factor: float, *, centered: bool) -> Tensor | None:
    """Compute ``factor * sum((student - teacher)^2)`` over the last dimension, optionally of centered differences.

    None if it is not finite, on an accelerator (a check would force a synchronization), and inside vmap and
    torch.compile.
    """
    if student.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    try:
        if not centered and student.numel() < _FEW:
            value = F.mse_loss(student, teacher, reduction="none").mean(-1)
            value = value if factor * student.shape[-1] == 1 else value * (factor * student.shape[-1])
        else:
            value = _Squares.apply(student, teacher, factor, centered)
        return value if math.isfinite(float(value.detach().sum())) else None
    except RuntimeError:  # inside vmap, grad, jacrev, ... of torch.func
        if not inside_transform(student, teacher):
            raise
        return None


class _Squares(torch.autograd.Function):
    """The difference is saved; the backward pass only scales it."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, factor: float, centered: bool) -> Tensor:
        difference = student - teacher
        if centered:
            difference.sub_(difference.mean(-1, keepdim=True))
        ctx.factor, ctx.centered = factor, centered
        ctx.save_for_backward(student, teacher, difference)
        return torch.linalg.vector_norm(difference, dim=-1).square_().mul_(factor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        student, teacher, difference = ctx.saved_tensors
        by_student, by_teacher = ctx.needs_input_grad[:2]
        scale = grad.unsqueeze(-1) * (2 * ctx.factor)
        if torch.is_grad_enabled():
            difference = student - teacher
            if ctx.centered:
                difference = difference - difference.mean(-1, keepdim=True)
            slope = difference * scale
        else:
            slope = torch.mul(difference, scale, out=None if keeps_graph(grad) else difference)
        return slope if by_student else None, -slope if by_teacher else None, None, None


@kernel(per="example")
@validates_pair
def squared_error(student: Float[Tensor, "batch ..."], teacher: Float[Tensor, "batch ..."]) -> Float[Tensor, " batch"]:
    """Compute the mean squared difference of two feature maps, one value per example.

    ``mean((student - teacher)^2)`` over all dimensions but the first; 0 exactly where both are equal. The FitNets hint
    loss is half the *sum*: half the number of features times this. In float32 it overflows for differences above 1e19.

    Args:
        student: Features of the student, after its head.
        teacher: Features of the teacher.

    Raises:
        LimbeckError: If the shapes differ.

    Example:
        >>> import torch
        >>> squared_error(torch.zeros(2, 3), torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 3.0]]))
        tensor([1., 3.])

    Source: Romero et al., FitNets, 2014, arXiv:1412.6550.
    """
    if student.ndim == 1:
        return squares(student - teacher)
    return mean_of_squares(student, teacher, student.ndim - 1)


@kernel(per="position")
@validates_pair
def logit_squared_error(
    student: Float[Tensor, "*batch classes"], teacher: Float[Tensor, "*batch classes"], *, centered: bool = True
) -> Float[Tensor, "*batch"]:
    """Compute half the mean squared difference of logits over classes, the limit of T^2 KL for large T.

    ``1 / (2 C) sum_c (z_c - v_c)^2``, z of the student and v of the teacher. With `centered` the mean over classes of
    ``z - v`` is subtracted first, since a constant added to a row of logits changes no probability. This is the limit
    of `kl_divergence` (with T^2) as the temperature goes to infinity. Its gradient in z is ``(z - v) / C``, centered.

    C counts the columns that are not -inf in both; those contribute 0. The value is infinite if a column is -inf in
    only one of the two. In float32 it overflows for differences above 1e19.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        centered: Whether a constant added to a row makes no difference.

    Raises:
        LimbeckError: If the shapes differ.

    Example:
        >>> import torch
        >>> logit_squared_error(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
        tensor([0.5000])

    Source: Hinton, Vinyals and Dean, 2015, arXiv:1503.02531, section 2.1; not centered: Ba and Caruana, Do Deep Nets
        Really Need to be Deep?, 2013, arXiv:1312.6184.
    """
    value = ordinary_sum_of_squares(student, teacher, 0.5 / max(1, student.shape[-1]), centered=centered)
    if value is not None:
        return value
    both, one_sided = _masked(student, teacher)
    classes = (~both).sum(-1, keepdim=True).clamp_min(1)
    off = both | one_sided
    difference = student.masked_fill(off, 0.0) - teacher.masked_fill(off, 0.0)
    if centered:
        difference = (difference - difference.sum(-1, keepdim=True) / classes).masked_fill(off, 0.0)
    value = 0.5 * squares(difference).sum(-1) / classes.squeeze(-1)
    return value.masked_fill(one_sided.any(-1), torch.inf)


@kernel(per="position")
@validates_pair
def probability_squared_error(
    student: Float[Tensor, "*batch classes"], teacher: Float[Tensor, "*batch classes"], *, temperature: float = 1.0
) -> Float[Tensor, "*batch"]:
    """Compute the mean squared difference of probabilities over classes, times T^2.

    ``T^2 / C sum_c (q_c - p_c)^2`` with ``p = softmax(teacher / T)`` and ``q = softmax(student / T)``. At T = 1 it is
    the consistency cost of mean teachers. It is bounded by ``2 T^2 / C``.

    C counts the columns that are not -inf in both. A row that is entirely -inf gives 0 if it is so in both, else inf.

    Args:
        student: Logits of the student.
        teacher: Logits of the teacher.
        temperature: T, above 0.

    Raises:
        LimbeckError: If the shapes differ, or `temperature` is not a finite number above 0.

    Example:
        >>> import torch
        >>> probability_squared_error(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 1.0]]).log())
        tensor([0.0625])

    Source: Tarvainen and Valpola, Mean teachers are better role models, 2017, arXiv:1703.01780.
    """
    both, _ = _masked(student, teacher)
    classes = (~both).sum(-1).clamp_min(1)
    difference = torch.softmax(nonzero_mask(student, temperature), -1) - torch.softmax(
        nonzero_mask(teacher, temperature), -1
    )
    value = squares(difference).sum(-1) * temperature**2 / classes
    return value.masked_fill(rows_with_infinite_kl(student, teacher), torch.inf)


def _masked(
    student: Float[Tensor, "*batch classes"], teacher: Float[Tensor, "*batch classes"]
) -> tuple[Bool[Tensor, "*batch classes"], Bool[Tensor, "*batch classes"]]:
    """Find the columns that are -inf in both, and those in only one."""
    no_student, no_teacher = student == -torch.inf, teacher == -torch.inf
    return no_student & no_teacher, no_student ^ no_teacher


@kernel(per="position")
@validates_pair
def state_squared_error(
    student: Float[Tensor, "*batch features"], teacher: Float[Tensor, "*batch features"]
) -> Float[Tensor, "*batch"]:
    """Compute the mean squared difference of hidden states over their features, one value per token.

    ``mean_i((h_i - t_i)^2)``, h of the student after its head and t of the teacher; exactly 0 for equal arguments. A
    `Loss` averages it over the tokens in ``Batch.mask``, so padding does not count; `squared_error` averages over the
    whole rectangle of an example. In float32 it overflows for differences above 1e19.

    Args:
        student: Hidden states of the student.
        teacher: Hidden states of the teacher.

    Raises:
        LimbeckError: If the shapes differ.

    Example:
        >>> import torch
        >>> state_squared_error(torch.zeros(1, 2, 2), torch.tensor([[[1.0, 1.0], [0.0, 2.0]]]))
        tensor([[1., 2.]])

    Source: Jiao et al., TinyBERT, 2019, arXiv:1909.10351, equation 8.
    """
    return mean_of_squares(student, teacher, 1)
