"""Directions of rows, distances of directions and inner products of rows, with gradients in closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from limbeck.functional.blockwise import inside_transform
from limbeck.functional.row_blocks import Needed, Slopes, apply_slopes

_SHORTEST, _LONGEST = 1e-12, 1e15
"""Between these lengths squares neither vanish nor overflow in float32."""

_LARGE_BATCH, _WIDE = 128, 64  # rows and columns from which four products of parts are faster than a whole one

_SMALL, _LARGE = 1e-6, 1e8
"""Between these lengths of all rows together, squares of products do so neither."""


def find_ordinary_lengths(*sides: Float[Tensor, "*batch values"]) -> list[Tensor] | None:
    """The lengths ``[*batch, 1]`` of rows; None if one is near 0, huge or not finite, or on an accelerator.

    On an accelerator the check would force a synchronization.

    Example:
        >>> find_ordinary_lengths(torch.tensor([[3.0, 4.0]])), find_ordinary_lengths(torch.zeros(1, 2))
        ([tensor([[5.]])], None)
    """
    if not all(rows.device.type == "cpu" and rows.numel() for rows in sides):
        return None
    lengths = [torch.linalg.vector_norm(rows, dim=-1, keepdim=True) for rows in sides]
    for length in lengths:
        low, high = torch.aminmax(length)  # NaN if one is
        if not (float(low) > _SHORTEST and float(high) < _LONGEST):
            return None
    return lengths


def is_moderate(rows: Tensor) -> bool:
    """Whether products of rows, and their squares, neither vanish nor overflow in float32; False off the CPU.

    Example:
        >>> is_moderate(torch.ones(2, 3)), is_moderate(torch.full((2, 3), 1e20)), is_moderate(torch.zeros(2, 3))
        (True, False, False)
    """
    if rows.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    try:
        return _SMALL < float(torch.linalg.vector_norm(rows.detach())) < _LARGE
    except RuntimeError:  # inside vmap, where float() is impossible
        if not inside_transform(rows):
            raise
        return False


def compare_directions(
    student: Float[Tensor, "*batch values"], teacher: Float[Tensor, "*batch values"]
) -> Float[Tensor, "*batch"] | None:
    r"""Compute :math:`\frac12 |u - v|^2 = 1 - \cos(x, y)` of rows x and y, with u and v of length 1.

    It is exactly 0 where both are equal, never negative, and so is its gradient. None if a row is out of the ordinary
    (`find_ordinary_lengths`), and inside the transforms of torch.func.

    Example:
        >>> compare_directions(torch.tensor([[3.0, 4.0], [2.0, 2.0]]), torch.tensor([[2.0, 0.0], [1.0, 1.0]]))
        tensor([0.4000, 0.0000])
        >>> compare_directions(torch.zeros(1, 2), torch.ones(1, 2)) is None
        True
    """
    return apply_slopes(_half_squared_distance, _find_half_squared_distance, student, teacher)


def _half_squared_distance(student: Tensor, teacher: Tensor) -> Tensor:
    ours, theirs = (rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True) for rows in (student, teacher))
    return (ours - theirs).square().sum(-1) / 2


def _find_half_squared_distance(needed: Needed, student: Tensor, teacher: Tensor) -> tuple[Tensor, Slopes] | None:
    lengths = find_ordinary_lengths(student, teacher)
    if lengths is None:
        return None
    u, v = student / lengths[0], teacher / lengths[1]
    return slopes_of_directions(needed, u, v, *lengths)


def slopes_of_directions(
    needed: Needed, u: Tensor, v: Tensor, student_length: Tensor, teacher_length: Tensor, *, dim: int = -1
) -> tuple[Tensor, Slopes]:
    """Half the squared distance of unit vectors along a dimension, and its slopes in the vectors before the division.

    `v` is overwritten.

    Example:
        >>> one, u, v = torch.ones(1, 1), torch.tensor([[0.6, 0.8]]), torch.tensor([[1.0, 0.0]])
        >>> slopes_of_directions((True, False), u, v, one, one)
        (tensor([0.4000]), (tensor([[-0.6400,  0.4800]]), None))
    """
    apart = torch.sub(u, v, out=v)
    half = torch.linalg.vector_norm(apart, dim=dim, keepdim=True).square_().mul_(0.5)
    # d/dx = ((u . v) u - v) / |x|, and u . v = 1 - half.
    by_teacher = torch.sub(u, apart).mul_(half).add_(apart).div_(-teacher_length) if needed[1] else None
    by_student = apart.addcmul_(u, half, value=-1).div_(student_length) if needed[0] else None
    return half.squeeze(dim), (by_student, by_teacher)


def find_directions(rows: Float[Tensor, "*batch values"]) -> Float[Tensor, "*batch values"] | None:
    """Rows of length 1 in the same directions; None if one is out of the ordinary, and inside torch.func.

    Example:
        >>> find_directions(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])
    """
    return _apply(_Directions, rows)


def inner_products(rows: Float[Tensor, "*batch n values"]) -> Float[Tensor, "*batch n n"]:
    """Compute the inner products of all pairs of rows: ``rows @ rows.T``, with one product in the backward pass.

    Example:
        >>> inner_products(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
        tensor([[5., 2.],
                [2., 1.]])
    """
    products = _apply(_InnerProducts, rows)
    return rows @ rows.mT if products is None else products


def sum_of_squares(rows: Float[Tensor, "*batch values"]) -> Float[Tensor, "*batch"]:
    """Compute the sum of squares of each row, with one product in the backward pass.

    Example:
        >>> sum_of_squares(torch.tensor([[3.0, 4.0]]))
        tensor([25.])
    """
    total = _apply(_SumOfSquares, rows)
    return rows.square().sum(-1) if total is None else total


def _apply(function: type[torch.autograd.Function], rows: Tensor) -> Tensor | None:
    if torch.compiler.is_compiling():
        return None
    call: Callable[..., Tensor | None] = function.apply
    try:
        return call(rows)
    except RuntimeError:  # inside vmap, grad, jacrev, ... of torch.func
        if not inside_transform(rows):
            raise
        return None


class _Directions(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor | None:
        lengths = find_ordinary_lengths(rows)
        if lengths is None:
            return None
        units = rows / lengths[0]
        ctx.save_for_backward(rows, units, lengths[0])
        return units

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        rows, units, length = ctx.saved_tensors
        if torch.is_grad_enabled():
            length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
            units = rows / length
        return (grad - units * (units * grad).sum(-1, keepdim=True)) / length


def _multiply(rows: Tensor) -> Tensor:
    """The inner products of rows; of a large matrix only those on and above the diagonal are computed."""
    size = len(rows)
    if rows.ndim != 2 or rows.device.type != "cpu" or size < _LARGE_BATCH or rows.shape[1] < _WIDE:
        return rows @ rows.mT
    products, band = rows.new_empty(size, size), (size + 3) // 4
    for start in range(0, size, band):
        end = min(start + band, size)
        torch.mm(rows[start:end], rows[start:].T, out=products[start:end, start:])
        products[end:, start:end] = products[start:end, end:].T
    return products


class _InnerProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return _multiply(rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (rows,) = ctx.saved_tensors
        return (grad + grad.mT) @ rows


class _SumOfSquares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return rows.square().sum(-1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (rows,) = ctx.saved_tensors
        return rows * (2 * grad).unsqueeze(-1)
