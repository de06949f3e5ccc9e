"""Divergences between two rows of logits with closed-form gradients, finite at -inf."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.functional.blockwise import Quick, in_blocks, inside_transform, keeps_graph
from limbeck.functional.series import SeriesTerms, sum_of_terms

_REGISTER = 16  # float32 values
_SANE = 1e18  # its square, and differences of tempered logits, fit into float32
_FEW = 1 << 15  # values, below which the overhead of a call dominates
_FEW_IN_DOUBLE = 1 << 14  # values, below which float64 costs less than the operations that it saves
_ROUNDING = 1e7 * 2.0**-52  # nats for each unit of a logit: errors of float64 are 1e-7 of a larger divergence
_GENERAL = 1 << 16  # values of a block of the general formulas
_APART = 0.8  # the root mean square of log-ratios from which no row is expected to be near equality
_LARGE = 1e4  # nats; larger values and NaN come from logits that need the guarded formula


class Pair(NamedTuple):
    """The distributions of a student, q, and of a teacher, p; all values are finite.

    If the logits are `tame`, none of them was -inf.
    """

    log_q: Float[Tensor, "*batch classes"]
    log_p: Float[Tensor, "*batch classes"]
    q: Float[Tensor, "*batch classes"]
    p: Float[Tensor, "*batch classes"]
    tame: bool = False


class Divergence(NamedTuple):
    """A divergence and its gradients; a gradient that is not needed may be None."""

    value: Float[Tensor, "*batch"]
    by_student: Float[Tensor, "*batch classes"] | None
    by_teacher: Float[Tensor, "*batch classes"] | None


class Form(ABC):
    """A divergence D(p, q) with its slopes dD/du and dD/dv, where q = softmax(u) and p = softmax(v).

    Gradients are explicit formulas because automatic differentiation loses precision: they are finite where p or q is
    0, and exactly 0 where p = q.
    """

    factor: ClassVar[float] = 1.0
    """A factor of value and gradients that is applied at the end, like T."""

    @abstractmethod
    def __call__(self, pair: Pair, student: bool, teacher: bool) -> Divergence:
        """Compute the divergence and the needed gradients."""


def divergence(student: Tensor, teacher: Tensor, temperature: float, form: Form) -> Tensor:
    """Compute T^2 D(p, q), one value per row; 0 if both rows are entirely -inf, and inf if only one is.

    For all finite logits the value is not NaN and the gradient is finite. Tempered logits that differ by more than 1e37
    (float32) count as -inf, so the KL divergence is infinite.

    It is twice differentiable in both arguments. Without classes it is 0.
    """
    if student.shape[-1:] == (0,):
        return (student - teacher).sum(-1)
    try:
        value: Tensor = _Direct.apply(student, teacher, temperature, form)
        return value
    except RuntimeError:  # inside vmap, grad, jacrev, ... of torch.func
        if not inside_transform(student, teacher):
            raise
        inside: Tensor = _Transformed.apply(student, teacher, temperature, form)
        return inside


def is_well_scaled(*logits: Tensor, temperature: float = 1.0) -> bool:
    """Whether all tempered logits are known to be finite and moderate, so that no guards are needed.

    On a CPU the check is one operation, and guards are many. It is False on an accelerator, where the check would force
    a synchronization, and inside vmap and torch.compile, where it is impossible.
    """
    if torch.compiler.is_compiling() or any(rows.device.type != "cpu" for rows in logits):
        return False
    try:
        return all(float(torch.linalg.vector_norm(rows.detach())) < _SANE * temperature for rows in logits)
    except RuntimeError:
        if not inside_transform(*logits):
            raise
        return False


def nonzero_mask(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Replace -inf in tempered logits by a finite floor whose softmax is still 0.

    This prevents inf - inf and 0 * inf, and makes a row of -inf uniform instead of NaN. A clamp is cheaper than a mask.
    """
    return _tempered(logits, temperature).clamp_min(clamp_neg_inf(logits.dtype))


def clamp_neg_inf(dtype: torch.dtype) -> float:
    """Return the floor for -inf: lower than any logit, and high enough that differences do not overflow."""
    return torch.finfo(dtype).min / 4


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    return logits if temperature == 1 else logits / temperature


def log_softmax(logits: Tensor) -> Tensor:
    """Compute the logarithm of softmax over the last dimension.

    On a CPU, with fewer classes than a vector register has, PyTorch does not vectorize along the last dimension. Along
    the first dimension it does.
    """
    if logits.shape[-1] >= _REGISTER or logits.device.type != "cpu":
        return torch.log_softmax(logits, -1)
    return torch.log_softmax(logits.transpose(0, -1), 0).transpose(0, -1)


def rows_with_infinite_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Find the rows that are entirely -inf in only one of the two."""
    if student.shape[-1:] == (0,):
        return torch.zeros(student.shape[:-1], dtype=torch.bool, device=student.device)
    return (student.detach().amax(-1) == -torch.inf) != (teacher.detach().amax(-1) == -torch.inf)


def through_softmax(q: Tensor, slope: Tensor) -> Tensor:
    """Compute dD/du from dD/dq (up to a constant per row): q * (slope - sum(q * slope))."""
    moved = q * slope
    return moved - q * moved.sum(-1, keepdim=True)


def squares(difference: Tensor) -> Tensor:
    """Square each value. NaN and infinite values get no gradient, because 0 times NaN is NaN."""
    if is_well_scaled(difference):
        return difference.square()
    wild = ~difference.detach().isfinite()
    return torch.where(wild, difference.detach().square(), difference.masked_fill(wild, 0.0).square())


def scaled(slope: Tensor, scale: Tensor, *, into: Tensor | None = None) -> Tensor:
    """Compute ``slope * scale``, and 0 where the scale is 0 even if the slope is NaN, for masked rows.

    The teacher's outputs of masked rows can be NaN, for example from attention over padding only.
    """
    product = torch.mul(slope, scale, out=into)
    if scale.device.type == "cpu" and not torch.compiler.is_compiling():
        try:
            if bool(scale.all()):
                return product
        except RuntimeError:  # inside vmap, where bool() is impossible
            if not inside_transform(scale):
                raise
    return product.masked_fill(scale == 0, 0.0)


def _compare(student: Tensor, teacher: Tensor, temperature: float) -> Pair:
    tame = is_well_scaled(student, teacher, temperature=temperature)
    logarithm = _plain_logarithm if tame else guarded_log_softmax
    log_q, log_p = logarithm(student, temperature), logarithm(teacher, temperature)
    return Pair(log_q, log_p, log_q.exp(), log_p.exp(), tame)


def _plain_logarithm(logits: Tensor, temperature: float) -> Tensor:
    return log_softmax(_tempered(logits, temperature))


def guarded_log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """Compute log softmax of any logits; values below the floor are raised to it."""
    if temperature < 1:  # the division could overflow
        logits = logits - logits.detach().amax(-1, keepdim=True).clamp_min(torch.finfo(logits.dtype).min)
    return log_softmax(nonzero_mask(logits, temperature)).clamp_min(clamp_neg_inf(logits.dtype))


def find_divergence(
    student: Tensor, teacher: Tensor, temperature: float, form: Form, needed: tuple[bool, bool]
) -> Divergence:
    """Compute T^2 D(p, q) and the needed gradients, divided by T; on a CPU in blocks of rows."""
    off_cpu = student.device.type != "cpu" or torch.compiler.is_compiling()
    if off_cpu or not student.numel():
        return _in_general(student, teacher, temperature, form, needed)
    if not isinstance(form, Quick):
        return _general_in_blocks(student, teacher, temperature, form, needed)
    if form.few is not None and student.numel() < _FEW:
        few = None
        if student.dtype == torch.float32 and student.numel() < _FEW_IN_DOUBLE:
            few = _of_few_in_double(student, teacher, temperature, form, needed)
        if few is None:
            few = _of_few(student, teacher, temperature, form, needed, form.few)
        if few is not None:
            return few
    value, *slopes = in_blocks(student, teacher, temperature, form, needed)
    unusual = None if float(value.sum()) < _LARGE else ~(value < _LARGE)
    value = _scaled_up(value, temperature, form.factor)
    if unusual is not None and bool(unusual.any()):
        others, *their_slopes = _in_general(student[unusual], teacher[unusual], temperature, form, needed)
        value = value.masked_scatter(unusual, others)
        for slope, their_slope in zip(slopes, their_slopes, strict=True):
            if slope is not None and their_slope is not None:
                slope[unusual] = their_slope
    return Divergence(value, *slopes)


def _of_few(
    student: Tensor, teacher: Tensor, temperature: float, form: Form, needed: tuple[bool, bool], least: float
) -> Divergence | None:
    """Compute the same for a small batch with few operations; None if a row is near equality or extreme."""
    # Rows near equality need another formula; this check is cheaper than computing the values.
    if not float(torch.dist(student, teacher)) > temperature * _APART * math.sqrt(student.numel()):
        return None
    log_q, log_p = _plain_logarithm(student, temperature), _plain_logarithm(teacher, temperature)
    value, *slopes = form(Pair(log_q, log_p, log_q.exp(), log_p.exp(), tame=True), *needed)
    low, high = (float(end) for end in value.aminmax())  # NaN if one is
    return Divergence(_scaled_up(value, temperature, form.factor), *slopes) if least <= low and high < _LARGE else None


def _of_few_in_double(
    student: Tensor, teacher: Tensor, temperature: float, form: Form, needed: tuple[bool, bool]
) -> Divergence | None:
    """Compute the same for a small float32 batch in float64; None if a row is within its rounding, or extreme.

    The plain formula loses about the rounding of a tempered logit, which is far below float32's precision unless two
    rows are almost equal. So most steps need no formula for rows near equality, with twice as many operations.
    """
    largest = max(float(torch.linalg.vector_norm(rows)) for rows in (student, teacher)) / temperature
    log_q, log_p = _plain_logarithm(student.double(), temperature), _plain_logarithm(teacher.double(), temperature)
    value, *slopes = form(Pair(log_q, log_p, log_q.exp(), log_p.exp(), tame=True), *needed)
    low, high = (float(end) for end in value.aminmax())  # NaN if one is
    if not (_ROUNDING * (1 + largest) <= low and high < _LARGE):
        return None
    value = _scaled_up(value, temperature, form.factor)
    return Divergence(value.float(), *(None if slope is None else slope.float() for slope in slopes))


def _in_general(
    student: Tensor, teacher: Tensor, temperature: float, form: Form, needed: tuple[bool, bool]
) -> Divergence:
    """Compute the same on every device, for any logits."""
    pair = _compare(student, teacher, temperature)
    value, *slopes = form(pair, *needed)
    if isinstance(form, SeriesTerms):
        value = _never_negative(value, student, teacher, temperature, form)
    value = _scaled_up(value, temperature, form.factor)
    if not pair.tame:
        value = value.masked_fill(rows_with_infinite_kl(student, teacher), torch.inf)
    return Divergence(value, *slopes)


def _general_in_blocks(
    student: Tensor, teacher: Tensor, temperature: float, form: Form, needed: tuple[bool, bool]
) -> Divergence:
    """Compute the same for some rows at a time, because the formulas hold ten tensors of the size of the logits."""
    classes = student.shape[-1]
    rows = max(1, _GENERAL // classes)
    if student.numel() <= rows * classes:
        return _in_general(student, teacher, temperature, form, needed)
    ours, theirs = student.reshape(-1, classes), teacher.reshape(-1, classes)
    slopes = [torch.empty_like(side) if want else None for side, want in zip((ours, theirs), needed, strict=True)]
    values = []
    for start in range(0, len(ours), rows):
        part = slice(start, start + rows)
        value, *found = _in_general(ours[part], theirs[part], temperature, form, needed)
        values.append(value)
        for slope, own in zip(slopes, found, strict=True):
            if slope is not None and own is not None:
                slope[part] = own
    shaped = (None if slope is None else slope.view(student.shape) for slope in slopes)
    return Divergence(torch.cat(values).view(student.shape[:-1]), *shaped)


def _never_negative(value: Tensor, student: Tensor, teacher: Tensor, temperature: float, form: SeriesTerms) -> Tensor:
    """Replace small values by a sum of non-negative terms, because rounding could make them negative."""
    small = value < form.small
    if student.device.type == "cpu" and not torch.compiler.is_compiling():
        try:
            if not bool(small.any()):
                return value
        except RuntimeError:  # inside vmap, where bool() is impossible
            if not inside_transform(small):
                raise
    terms, valid = sum_of_terms(student, teacher, temperature, form)
    return torch.where(valid & small, terms, value.clamp_min(0.0))


def _scaled_up(value: Tensor, temperature: float, factor: float) -> Tensor:
    # The square of a small temperature underflows in float32, and 0 times an infinite value would be NaN.
    return value * temperature * (temperature * factor) if temperature < 1 else value * (temperature**2 * factor)


def _along(slope: Tensor | None, tangent: Tensor | None, scale: float) -> Tensor | float:
    """Compute the directional derivative of the value along a tangent."""
    return 0.0 if slope is None or tangent is None else scale * scaled(slope, tangent).sum(-1)


class _Transformed(torch.autograd.Function):
    """The value inside vmap, grad, jvp, hessian, ... of torch.func; gradients are computed on request."""

    generate_vmap_rule = True

    @staticmethod
    def forward(student: Tensor, teacher: Tensor, temperature: float, form: Form) -> Tensor:
        return _in_general(student, teacher, temperature, form, (False, False)).value

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        student, teacher, ctx.temperature, ctx.form = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(student, teacher)
        ctx.save_for_forward(student, teacher)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None]:
        if grad is None:
            return None, None, None, None
        return _backwards(ctx, grad, ctx.saved_tensors)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        student, teacher = ctx.saved_tensors
        by_student, by_teacher = (tangent is not None for tangent in tangents[:2])
        _, *slopes = ctx.form(_compare(student, teacher, ctx.temperature), by_student, by_teacher)
        scale = ctx.temperature * ctx.form.factor
        changes = [_along(*both, scale) for both in zip(slopes, tangents[:2], strict=True)]
        return changes[0] + changes[1]  # type: ignore[return-value]


class _Direct(torch.autograd.Function):
    """The same without support for torch.func, which costs as much as ten operations per call.

    Gradients are computed in the forward pass, while the distributions are available; the backward pass only scales
    them.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        student, teacher, ctx.temperature, ctx.form = inputs
        needed = (student.requires_grad, teacher.requires_grad)
        value, *slopes = find_divergence(student, teacher, ctx.temperature, ctx.form, needed)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(student, teacher, *slopes)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None]:
        if grad is None:
            return None, None, None, None
        student, teacher, *slopes = ctx.saved_tensors
        if torch.is_grad_enabled() or any(
            needed and slope is None for needed, slope in zip(ctx.needs_input_grad[:2], slopes, strict=True)
        ):
            return _backwards(ctx, grad, (student, teacher))
        return _times(ctx, grad, slopes, last=not keeps_graph(grad))


def _backwards(ctx: Any, grad: Tensor, logits: Any) -> tuple[Tensor | None, Tensor | None, None, None]:
    """Compute the gradient as a differentiable function of the logits."""
    student, teacher = logits
    _, *slopes = ctx.form(_compare(student, teacher, ctx.temperature), *ctx.needs_input_grad[:2])
    return _times(ctx, grad, slopes)


def _times(
    ctx: Any, grad: Tensor, slopes: Any, *, last: bool = False
) -> tuple[Tensor | None, Tensor | None, None, None]:
    # T^2 from the factor, 1/T from tempering.
    scale = grad.unsqueeze(-1) * (ctx.temperature * ctx.form.factor)
    sides = zip(slopes, ctx.needs_input_grad[:2], strict=True)
    by_student, by_teacher = (scaled(s, scale, into=s if last else None) if needed else None for s, needed in sides)
    return by_student, by_teacher, None, None
