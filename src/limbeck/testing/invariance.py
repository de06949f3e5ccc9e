"""The transformations of `KernelClaim.invariances`, applied to the arguments of a kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from limbeck.functional import KernelClaim


def transform_sample(
    name: str, claim: KernelClaim, sample: Mapping[str, Tensor], *, seed: int = 0
) -> dict[str, Tensor]:
    """Apply a transformation of `limbeck.functional.kernel_claim.INVARIANCES` to the arguments of a kernel.

    Args:
        name: The name of the transformation, such as ``student_shift``.
        claim: The kernel and its shapes.
        sample: The arguments.
        seed: The seed of what is drawn. A joint transformation draws the same for student and teacher.
    """
    side, _, kind = name.partition("_")
    names = {"student": claim.student, "teacher": claim.teacher, "joint": claim.student + claim.teacher}[side]
    change = TRANSFORMATIONS[kind]
    moved = {key: change(sample[key], claim, torch.Generator().manual_seed(seed)) for key in names if key in sample}
    return {**sample, **moved}


def _shift(x: Tensor, claim: KernelClaim, draw: torch.Generator) -> Tensor:
    return x + 3 * _normal(x, _row_shape(x, claim), draw)


def _scale(x: Tensor, claim: KernelClaim, draw: torch.Generator) -> Tensor:
    return x * _normal(x, _row_shape(x, claim), draw).exp()


def _batch_scale(x: Tensor, claim: KernelClaim, draw: torch.Generator) -> Tensor:
    return x * _normal(x, (1,), draw).exp()


def _translation(x: Tensor, claim: KernelClaim, draw: torch.Generator) -> Tensor:
    return x + 3 * _normal(x, (1, *x.shape[1:]), draw)


def _negation(x: Tensor, claim: KernelClaim, draw: torch.Generator) -> Tensor:
    return -x


def _rotation(x: Tensor, claim: KernelClaim, draw: torch.Generator) -> Tensor:
    width = x.shape[claim.channels]
    orthogonal = torch.linalg.qr(_normal(x, (width, width), draw)).Q
    return (x.movedim(claim.channels, -1) @ orthogonal).movedim(-1, claim.channels)


def _channel_permutation(x: Tensor, claim: KernelClaim, draw: torch.Generator) -> Tensor:
    order = torch.randperm(x.shape[claim.channels], generator=draw)
    return x.index_select(claim.channels, order)


def _position_permutation(x: Tensor, claim: KernelClaim, draw: torch.Generator) -> Tensor:
    rows = x.movedim(claim.channels, 1)
    order = torch.randperm(rows[0, 0].numel(), generator=draw)
    return rows.flatten(2)[..., order].reshape(rows.shape).movedim(1, claim.channels)


def _flip(x: Tensor, claim: KernelClaim, draw: torch.Generator) -> Tensor:
    return x.movedim(claim.channels, 1).flip(-1).movedim(1, claim.channels)


def _normal(x: Tensor, shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=draw, dtype=torch.float64).to(x.dtype)


def _row_shape(x: Tensor, claim: KernelClaim) -> tuple[int, ...]:
    """One number for each row of logits, or for each example of features."""
    return (*x.shape[:-1], 1) if claim.logits else (len(x), *(1,) * (x.ndim - 1))


TRANSFORMATIONS: Mapping[str, Callable[[Tensor, KernelClaim, torch.Generator], Tensor]] = {
    "shift": _shift,
    "scale": _scale,
    "batch_scale": _batch_scale,
    "translation": _translation,
    "negation": _negation,
    "rotation": _rotation,
    "channel_permutation": _channel_permutation,
    "position_permutation": _position_permutation,
    "flip": _flip,
}
