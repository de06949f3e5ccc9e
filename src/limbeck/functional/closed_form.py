"""How is a divergence between two rows of logits computed, and its gradient, without a NaN and without waste?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

_REGISTER = 16  # float32 values
_SANE = 1e18  # its square is a float32, and differences of tempered logits are


class Pair(NamedTuple):
    """The distributions of a student, q, and of a teacher, p; all values are finite.

    Where the logits are `tame`, none stands for -inf.
    """

    log_q: Float[Tensor, "*batch classes"]
    log_p: Float[Tensor, "*batch classes"]
    q: Float[Tensor, "*batch classes"]
    p: Float[Tensor, "*batch classes"]
    tame: bool = False


class Found(NamedTuple):
    """A divergence and its slopes; a slope that was not wanted may be None."""

    value: Float[Tensor, "*batch"]
    by_student: Float[Tensor, "*batch classes"] | None
    by_teacher: Float[Tensor, "*batch classes"] | None


class Form(ABC):
    """A divergence D(p, q) with its slopes dD/du and dD/dv, where q = softmax(u) and p = softmax(v).

    Slopes are written out because a formula keeps what automatic differentiation loses: they are finite where p or q is
    0, and exactly 0 where p = q.
    """

    @abstractmethod
    def __call__(self, pair: Pair, student: bool, teacher: bool) -> Found:
        """The divergence, and the slopes that are wanted."""


def divergence(student: Tensor, teacher: Tensor, temperature: float, form: Form) -> Tensor:
    """T^2 D(p, q), one value for each row; 0 where both rows are nothing but -inf, inf where one is.

    It is no NaN, and its gradient finite, for all finite logits. Tempered ones that lie 1e37 apart (float32) are as far
    apart as from -inf, so a KL divergence that needs more than that is infinite.

    Differentiable twice in both arguments.
    """
    try:
        value: Tensor = _Direct.apply(student, teacher, temperature, form)
        return value
    except RuntimeError:  # inside vmap, grad, jacrev, ... of torch.func
        return _Divergence.apply(student, teacher, temperature, form)[0]


def tame(*logits: Tensor, temperature: float = 1.0) -> bool:
    """Whether all tempered logits are known to be finite and of sane size, so that nothing has to be guarded.

    On a CPU asking costs one operation, and guards cost many. False on an accelerator, where asking would wait for all
    that is queued there, and inside vmap and torch.compile, which cannot answer.
    """
    if torch.compiler.is_compiling() or any(one.device.type != "cpu" for one in logits):
        return False
    try:
        return all(float(torch.linalg.vector_norm(one.detach())) < _SANE * temperature for one in logits)
    except RuntimeError:
        return False


def live(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Tempered logits with -inf raised to a finite floor, of which softmax still makes 0.

    So no later step meets inf - inf or 0 * inf, in the value or in its gradient, and a row of nothing but -inf becomes
    uniform instead of NaN. A clamp costs a fraction of a mask.
    """
    return _tempered(logits, temperature).clamp_min(floor(logits.dtype))


def floor(dtype: torch.dtype) -> float:
    """What -inf is raised to: low enough to be told from any logit, high enough that a difference does not overflow."""
    return torch.finfo(dtype).min / 4


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    return logits if temperature == 1 else logits / temperature


def log_softmax(logits: Tensor) -> Tensor:
    """The logarithm of softmax over the last dimension.

    On a CPU, fewer classes than a vector register holds go one number at a time along the last dimension; along the
    first, as many examples as it holds go at once.
    """
    if logits.shape[-1] >= _REGISTER or logits.device.type != "cpu":
        return torch.log_softmax(logits, -1)
    return torch.log_softmax(logits.transpose(0, -1), 0).transpose(0, -1)


def unmatched(student: Tensor, teacher: Tensor) -> Tensor:
    """Rows that are nothing but -inf in one of the two alone."""
    return (student.detach().amax(-1) == -torch.inf) != (teacher.detach().amax(-1) == -torch.inf)


def through_softmax(q: Tensor, slope: Tensor) -> Tensor:
    """dD/du from dD/dq (known up to a constant in each row): q * (slope - sum(q * slope))."""
    moved = q * slope
    return moved - q * moved.sum(-1, keepdim=True)


def squares(difference: Tensor) -> Tensor:
    """Each value's square; where it is NaN or infinite no gradient goes back, which would be NaN also times 0."""
    if tame(difference):
        return difference.square()
    wild = ~difference.detach().isfinite()
    return torch.where(wild, difference.detach().square(), difference.masked_fill(wild, 0.0).square())


def scaled(slope: Tensor, scale: Tensor) -> Tensor:
    """``slope * scale``, and 0 where the scale is 0, also if the slope is NaN: a row that was masked moves nothing.

    A teacher may say NaN of a row that nobody asked about, as attention over nothing but padding does.
    """
    found = slope * scale
    none = scale == 0
    if scale.device.type == "cpu" and not torch.compiler.is_compiling():
        try:
            if not bool(none.any()):
                return found
        except RuntimeError:  # inside vmap, which cannot answer
            pass
    return found.masked_fill(none, 0.0)


def _compare(student: Tensor, teacher: Tensor, temperature: float) -> Pair:
    known = tame(student, teacher, temperature=temperature)
    found = _known_logarithm if known else _guarded_logarithm
    log_q, log_p = found(student, temperature), found(teacher, temperature)
    return Pair(log_q, log_p, log_q.exp(), log_p.exp(), known)


def _known_logarithm(logits: Tensor, temperature: float) -> Tensor:
    return log_softmax(_tempered(logits, temperature))


def _guarded_logarithm(logits: Tensor, temperature: float) -> Tensor:
    """Log softmax of any logits; what is below the floor, because it was -inf or further below the top, is raised."""
    if temperature < 1:  # dividing could overflow upwards
        logits = logits - logits.detach().amax(-1, keepdim=True).clamp_min(torch.finfo(logits.dtype).min)
    return log_softmax(live(logits, temperature)).clamp_min(floor(logits.dtype))


class _Divergence(torch.autograd.Function):
    """The value, and beside it the slopes, found while the distributions are at hand: the backward pass only scales."""

    generate_vmap_rule = True

    @staticmethod
    def forward(student: Tensor, teacher: Tensor, temperature: float, form: Form) -> tuple[Tensor, Tensor, Tensor]:
        pair = _compare(student, teacher, temperature)
        value, *slopes = form(pair, student.requires_grad, teacher.requires_grad)
        # The square of a small temperature is 0 in float32, and a value may be infinite.
        value = value * temperature * temperature if temperature < 1 else value * temperature**2
        if not pair.tame:
            value = value.masked_fill(unmatched(student, teacher), torch.inf)
        by_student, by_teacher = (value.new_empty(0) if slope is None else slope for slope in slopes)
        return value, by_student, by_teacher

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        student, teacher, ctx.temperature, ctx.form = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(student, teacher, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, Tensor | None, None, None]:
        if grad is None:
            return None, None, None, None
        student, teacher, *slopes = ctx.saved_tensors
        by_student, by_teacher = ctx.needs_input_grad[:2]
        known = (len(slopes[0]) or not by_student) and (len(slopes[1]) or not by_teacher)
        if torch.is_grad_enabled() or not known:
            # A gradient of this gradient is wanted, so the slopes must be functions of the logits.
            _, *slopes = ctx.form(_compare(student, teacher, ctx.temperature), by_student, by_teacher)
        # T^2 from the factor, 1/T from tempering.
        scale = grad.unsqueeze(-1) * ctx.temperature
        return (
            scaled(slopes[0], scale) if by_student else None,
            scaled(slopes[1], scale) if by_teacher else None,
            None,
            None,
        )


class _Direct(_Divergence):
    """The same without what torch.func asks for, which costs as much as ten operations each time."""

    setup_context = torch.autograd.Function.setup_context

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:  # type: ignore[override]
        value, *slopes = _Divergence.forward(*inputs)
        student, teacher, ctx.temperature, ctx.form = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(student, teacher, *slopes)
        return value
