"""Losses for regression and multi-label targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.functional.blockwise import AT_ONCE, buffer, inside_transform, keeps_graph
from limbeck.functional.divergence import kl_divergence
from limbeck.functional.kernel import kernel, validates_pair, validates_student

General = Callable[[Tensor, Tensor, float], Tensor]

"""Maps student, teacher and temperature to the divergence of any logits, in differentiable operations."""

_NEAR = {torch.float32: 0.1, torch.float64: 0.002}

"""The difference of logits up to which a series of four terms is more precise than the formula."""

_CLOSE = 0.3

"""The root mean square of logit differences above which the rounding error is about 1e-6 of the mean value."""

_SAMPLE = 1 << 12

"""The number of differences in the sample for the mean square."""

_BITS = {torch.float32: (torch.int32, -(1 << 31)), torch.float64: (torch.int64, -(1 << 63))}

"""The integer type of the same size, and its sign bit."""

_FEW = 1 << 15

"""The number of values below which new memory is cheaper than views of the buffers."""


def binary_divergence(student: Tensor, teacher: Tensor, temperature: float, general: General) -> Tensor:
    """Compute T^2 KL(p || q) for each number. Infinite logits and other devices use `general`."""
    if student.device.type == "cpu" and not torch.compiler.is_compiling() and student.numel():
        try:
            value: Tensor = _Binary.apply(student, teacher, temperature, general)
            return value
        except RuntimeError:  # inside vmap, grad, jacrev, ... of torch.func
            if not inside_transform(student, teacher):
                raise
    return general(student, teacher, temperature)


class _Binary(torch.autograd.Function):
    """Computes the value and its gradient together; the backward pass only scales."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float, general: General) -> Tensor:
        ctx.temperature, ctx.general = temperature, general
        value = torch.empty(student.numel(), dtype=student.dtype)
        slope = torch.empty_like(value) if student.requires_grad else None
        z, v = student.reshape(-1), teacher.reshape(-1)
        if len(z) <= AT_ONCE:  # on a small batch views cost as much as some arithmetic
            _fill(z, v, temperature, value, slope)
        else:
            for part in _parts(len(z)):
                _fill(z[part], v[part], temperature, value[part], None if slope is None else slope[part])
        ctx.plain = math.isfinite(float(value.sum()))
        if not ctx.plain:
            at = (~value.isfinite()).nonzero()[:, 0]
            value[at] = general(z[at], v[at], temperature)
        ctx.save_for_backward(student, teacher, None if slope is None else slope.view(student.shape))
        return value.view(student.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        student, teacher, slope = ctx.saved_tensors
        needed = ctx.needs_input_grad[:2]
        graph = torch.is_grad_enabled()
        if graph or needed[1] or not ctx.plain:
            with torch.enable_grad():
                sides = [side if need else side.detach() for side, need in zip((student, teacher), needed, strict=True)]
                inputs = [side for side, need in zip(sides, needed, strict=True) if need]
                value = ctx.general(*sides, ctx.temperature)
                gradients = iter(torch.autograd.grad(value, inputs, grad, create_graph=graph))
            return *(next(gradients) if need else None for need in needed), None, None  # type: ignore[return-value]
        return torch.mul(slope, grad, out=None if keeps_graph(grad) else slope), None, None, None


def _parts(count: int) -> Iterator[slice]:
    return (slice(start, min(start + AT_ONCE, count)) for start in range(0, count, AT_ONCE))


def _fill(z: Tensor, v: Tensor, temperature: float, value: Tensor, slope: Tensor | None) -> None:
    """Compute value and gradient in place, with signs flipped so that p is at most one half, for precision.

    Then ``q / p = exp(x) / (1 + w)`` with ``w = p (exp(x) - 1)``, the divergence is ``log(1 + w) - p x``, and the slope
    ``q - p = w (1 - p) / (1 + w)``.
    """
    a, b = (None, None) if len(z) < _FEW else (buffer(number, z.dtype, len(z)) for number in range(2))
    bits, sign_bit = _BITS[z.dtype]
    # Bit operations on signs are faster than comparisons or products.
    v_bits, b_bits = v.view(bits), None if b is None else b.view(bits)
    x = torch.sub(v, z, out=a)
    close = _spread(x) <= _CLOSE * temperature
    x.view(bits).bitwise_xor_(torch.bitwise_and(v_bits, sign_bit, out=b_bits))
    below = torch.bitwise_or(v_bits, sign_bit, out=b_bits).view(v.dtype)  # -|v|
    p = (below if temperature == 1 else below.mul_(1 / temperature)).sigmoid_()
    w = torch.empty_like(x) if slope is None else slope
    if close:
        torch.expm1(x if temperature == 1 else x.mul_(1 / temperature), out=w).mul_(p)
        torch.log1p(w, out=value).addcmul_(p, x, value=-1)
        _mend(p, x, value)
    else:  # Of a fifth of expm1's time; it leaves 6e-8 p of rounding where x is small.
        torch.exp2(x.mul_(math.log2(math.e) / temperature), out=w).sub_(1).mul_(p)
        torch.log1p(w, out=value).addcmul_(p, x, value=-math.log(2)).clamp_min_(0.0)
    if slope is not None:
        slope.div_(torch.add(w, 1, out=a)).mul_(p.sub_(1))
        slope.view(bits).bitwise_xor_(torch.bitwise_and(v_bits, sign_bit, out=b_bits))
        if temperature != 1:
            slope.mul_(temperature)
    if temperature != 1:
        value.mul_(temperature**2)


def _spread(x: Tensor) -> float:
    """Compute the root mean square, from a sample if there are many numbers."""
    step = len(x) // _SAMPLE
    some = x[::step] if step > 1 else x
    return float(torch.linalg.vector_norm(some)) / math.sqrt(len(some))


def _mend(p: Tensor, x: Tensor, value: Tensor) -> None:
    """Replace values by the series where x is small; x is overwritten."""
    # Comparisons are slow on a CPU; hardshrink is fast.
    far = torch.hardshrink(x, _NEAR[x.dtype])
    x.sub_(far)
    value.mul_(far.sign_().square_()).add_(_series(p, x))


def _series(p: Tensor, x: Tensor) -> Tensor:
    """``log(1 - p + p exp(x)) - p x`` for small x, from the cumulants of a Bernoulli variable."""
    y = torch.mul(p, -2).add_(1).mul_(x)
    square = x * x
    total = torch.mul(y, 3 / 120, out=x).add_(3 / 48)
    total.mul_(y).add_(1 / 6).sub_(square, alpha=1 / 60)
    total.mul_(y).add_(1 / 2).sub_(square, alpha=1 / 48)
    total.mul_(square).mul_(p)
    return total.addcmul_(total, p, value=-1)


_IGNORED = -100

Answers: TypeAlias = Float[Tensor, "*outputs"] | Integer[Tensor, "*outputs"] | Bool[Tensor, "*outputs"]

"""Yes or no, or the probability of yes, for each output."""


@kernel(per="output")
@validates_student
def target_squared_error(
    student: Float[Tensor, "*outputs"],
    *,
    targets: Float[Tensor, "*outputs"],
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
) -> Float[Tensor, "*outputs"]:
    """Compute the squared error ``(f - (y - mean) / std)^2``, one value per output of each example.

    With the defaults it is ``(f - y)^2`` in the squared unit of the targets. A target of NaN is unknown: value and
    gradient are 0, and the mean of a `Loss` is over the other targets, as in `limbeck.metrics.mse`. In float32 it
    overflows for differences above 1e19.

    Args:
        student: The student's estimates, of the standardized targets.
        targets: The target values, ``Batch.extra["targets"]``.
        mean: The mean of the targets: one number, or one for each output (the last dimension).
        std: Their standard deviation, above 0.

    Raises:
        LimbeckError: If the shapes differ, or targets are whole numbers, which cannot be NaN.

    Example:
        >>> import torch
        >>> target_squared_error(torch.tensor([[1.0, 2.0]]), targets=torch.tensor([[3.0, float("nan")]]))
        tensor([[4., 0.]])
    """
    _check_shapes(student, targets)
    if not targets.is_floating_point():
        raise LimbeckError(
            f"target_squared_error() needs floating-point targets, NaN for unknown; got "
            f"{str(targets.dtype).removeprefix('torch.')}: targets.float()."
        )
    unknown = targets.isnan()
    if mean != 0.0 or std != 1.0:
        targets = (targets - targets.new_tensor(mean)) / targets.new_tensor(std)
    return (student - targets.masked_fill(unknown, 0.0)).masked_fill(unknown, 0.0).square()


@kernel(per="output")
@validates_student
def binary_cross_entropy(student: Float[Tensor, "*outputs"], *, targets: Answers) -> Float[Tensor, "*outputs"]:
    """Compute the cross-entropy of independent binary labels: ``-y log s(z) - (1 - y) log s(-z)`` in nats.

    s is the logistic function; there is one value per output of each example. y is 1 for yes, 0 for no, or the
    probability of yes. It is unknown if it is -100 (whole numbers) or NaN (floating point): value and gradient are 0,
    and the mean of a `Loss` is over the other labels, as in `limbeck.metrics.binary_nll`.

    Args:
        student: Logits of the student, one per label.
        targets: The labels, ``Batch.extra["targets"]``.

    Raises:
        LimbeckError: If the shapes differ, or (on the CPU) a known label is not from 0 to 1.

    Example:
        >>> import torch
        >>> binary_cross_entropy(torch.tensor([[0.0, 3.0]]), targets=torch.tensor([[1, -100]]))
        tensor([[0.6931, 0.0000]])
    """
    _check_shapes(student, targets)
    unknown = ~known_targets(targets)
    answers = targets.to(student.dtype).masked_fill(unknown, 0.5)
    _check_answers(answers)
    return F.binary_cross_entropy_with_logits(student, answers, reduction="none").masked_fill(unknown, 0.0)


@kernel(per="output")
@validates_pair
def binary_kl_divergence(
    student: Float[Tensor, "*outputs"], teacher: Float[Tensor, "*outputs"], *, temperature: float = 1.0
) -> Float[Tensor, "*outputs"]:
    """Compute KL(p || q) of independent binary labels, times T^2, in nats, one value per label of each example.

    ``p = s(v / T)`` of the teacher and ``q = s(z / T)`` of the student, s the logistic function:
    ``p log(p / q) + (1 - p) log((1 - p) / (1 - q))``. It is `kl_divergence` between the two-class logits ``(z, 0)`` and
    ``(v, 0)``, and has the same limits: value and gradient are exactly 0 for equal logits.

    Args:
        student: Logits z of the student, one per label.
        teacher: Logits v of the teacher.
        temperature: T.

    Raises:
        LimbeckError: If the shapes differ, or the temperature is not above 0.

    Example:
        >>> import torch
        >>> binary_kl_divergence(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 2.0]]))
        tensor([[0.1109, 0.0000]])

    Source: Yang et al., Multi-Label Knowledge Distillation, 2023, arXiv:2308.06453, the multi-label logits loss, here
    with a temperature.
    """
    return binary_divergence(student, teacher, temperature, _of_two_classes)


def _of_two_classes(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    both = (torch.stack((side, torch.zeros_like(side)), -1) for side in (student, teacher))
    return kl_divergence(*both, temperature=temperature)


def _check_answers(answers: Tensor) -> None:
    """Check that all values are probabilities; not on accelerators, where it would synchronize."""
    if answers.device.type != "cpu" or torch.compiler.is_compiling():
        return
    wrong = (answers < 0) | (answers > 1)
    try:
        if not bool(wrong.any()):
            return
    except RuntimeError:  # inside vmap, where bool() is impossible
        if not inside_transform(wrong):
            raise
        return
    raise LimbeckError(
        "binary_cross_entropy() needs targets from 0 (no) to 1 (yes), and -100 or NaN for unknown; got "
        f"{answers[wrong][0].item():g}."
    )


def known_targets(targets: Tensor) -> Tensor:
    """Return the mask of known targets: not NaN, and not -100 in whole numbers."""
    if targets.dtype == torch.bool:
        return torch.ones_like(targets)
    return ~targets.isnan() if targets.is_floating_point() else targets != _IGNORED


def _check_shapes(student: Tensor, targets: Tensor) -> None:
    if student.shape != targets.shape:
        raise LimbeckError(
            f"targets of shape {tuple(targets.shape)} do not match outputs of shape {tuple(student.shape)}: there is "
            "one target for each output (a single column: targets.unsqueeze(1))."
        )
