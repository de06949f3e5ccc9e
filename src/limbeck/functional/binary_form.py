"""The divergence between independent yes-or-no answers, one number at a time and in place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from limbeck.functional.rows import AT_ONCE, room

General = Callable[[Tensor, Tensor, float], Tensor]
"""Student, teacher, temperature -> the divergence of any logits, as differentiable operations."""

_NEAR = {torch.float32: 0.1, torch.float64: 0.002}
"""Up to which difference of logits a series of four terms is better than a formula that cancels."""


def binary_divergence(student: Tensor, teacher: Tensor, temperature: float, general: General) -> Tensor:
    """T^2 KL(p || q) for each number; infinite logits are left to `general`, and other devices."""
    if student.device.type == "cpu" and not torch.compiler.is_compiling() and student.numel():
        try:
            found: Tensor = _Binary.apply(student, teacher, temperature, general)
            return found
        except RuntimeError:  # inside vmap, grad, jacrev, ... of torch.func
            pass
    return general(student, teacher, temperature)


class _Binary(torch.autograd.Function):
    """The value in place; the backward pass makes both probabilities again, which costs less than to keep a slope."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float, general: General) -> Tensor:
        value = torch.empty(student.numel(), dtype=student.dtype)
        z, v = student.reshape(-1), teacher.reshape(-1)
        for part in _parts(len(z)):
            _fill(z[part], v[part], temperature, value[part])
        ctx.plain = math.isfinite(float(value.sum()))
        if not ctx.plain:
            at = (~value.isfinite()).nonzero()[:, 0]
            value[at] = general(z[at], v[at], temperature)
        ctx.temperature, ctx.general = temperature, general
        ctx.save_for_backward(student, teacher)
        return value.view(student.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        student, teacher = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:2]
        graph = torch.is_grad_enabled()
        if graph or wanted[1] or not ctx.plain:
            with torch.enable_grad():
                sides = [side if need else side.detach() for side, need in zip((student, teacher), wanted, strict=True)]
                asked = [side for side, need in zip(sides, wanted, strict=True) if need]
                value = ctx.general(*sides, ctx.temperature)
                found = iter(torch.autograd.grad(value, asked, grad, create_graph=graph))
            return *(next(found) if need else None for need in wanted), None, None  # type: ignore[return-value]
        slope = torch.empty(student.numel(), dtype=student.dtype)
        z, v = student.reshape(-1), teacher.reshape(-1)
        for part in _parts(len(z)):
            p = torch.mul(v[part], 1 / ctx.temperature, out=room(v.dtype, 1, len(v[part]))[0][0]).sigmoid_()
            torch.mul(z[part], 1 / ctx.temperature, out=slope[part]).sigmoid_().sub_(p).mul_(ctx.temperature)
        return slope.view(student.shape).mul_(grad), None, None, None


def _parts(count: int) -> Iterator[slice]:
    return (slice(start, min(start + AT_ONCE, count)) for start in range(0, count, AT_ONCE))


def _fill(z: Tensor, v: Tensor, temperature: float, value: Tensor) -> None:
    """With answers turned so that p is at most a half, as 1 - p would else lose what p has gained.

    Then ``q / p = exp(x) / (1 + w)`` with ``w = p (exp(x) - 1)``, and the divergence is ``log(1 + w) - p x``.
    """
    a, b, c, d = (buffer[0] for buffer in room(z.dtype, 1, len(z)))
    side = torch.add(v, torch.finfo(v.dtype).tiny, out=c).sign_()  # 0 counts as above
    x = torch.sub(v, z, out=a).mul_(side)
    if temperature != 1:
        x.mul_(1 / temperature)
    p = torch.mul(v, side, out=b).mul_(-1 / temperature).sigmoid_()
    torch.mul(p, torch.expm1(x, out=d), out=value).log1p_().addcmul_(p, x, value=-1)
    # Comparisons are slow on a CPU; a threshold that gives numbers is not.
    far = torch.hardshrink(x, _NEAR[z.dtype], out=c)
    x.sub_(far)
    value.mul_(far.sign_().square_()).add_(_series(p, x, c, d))
    if temperature != 1:
        value.mul_(temperature**2)


def _series(p: Tensor, x: Tensor, y: Tensor, square: Tensor) -> Tensor:
    """``log(1 - p + p exp(x)) - p x`` for small x, from the cumulants of an answer that is yes with probability p.

    It takes the place of x; the last two are room.
    """
    torch.mul(p, -2, out=y).add_(1).mul_(x)
    torch.mul(x, x, out=square)
    found = torch.mul(y, 3 / 120, out=x).add_(3 / 48)
    found.mul_(y).add_(1 / 6).sub_(square, alpha=1 / 60)
    found.mul_(y).add_(1 / 2).sub_(square, alpha=1 / 48)
    found.mul_(square).mul_(p)
    return found.addcmul_(found, p, value=-1)
