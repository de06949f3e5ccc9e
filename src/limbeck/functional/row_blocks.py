"""Functions whose slopes are found together with their values, block by block, so that time and memory stay small."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from limbeck.functional.blockwise import inside_transform, keeps_graph
from limbeck.functional.closed_form import scaled

_BLOCK = 1 << 16  # values of a block on a CPU; smaller inputs are computed at once
_LARGE_BLOCK = 1 << 24  # on an accelerator, where the calls for many small blocks would take longer than the blocks

Needed = tuple[bool, ...]
Slopes = Sequence[Tensor | None]
FindSlopes = Callable[..., tuple[Tensor, Slopes] | None]
"""Function of which of the first two tensors need a slope, and of the tensors: the values, and for each of the two the
derivative of its row's value, or None if it is not needed. None instead of both if a row is out of the ordinary."""


def compute_by_rows(
    function: Callable[..., Tensor],
    student: Tensor,
    teacher: Tensor,
    *columns: Tensor,
    find: FindSlopes | None = None,
    block: int | None = None,
) -> Tensor:
    """Compute a function of rows of logits in blocks, of which only the values and the slopes are kept.

    Kernels that are written with many operations keep ten or more tensors of the size of the logits for the backward
    pass. Here the slopes of a block are computed with its values, and the backward pass only scales them: a value
    depends on its own row alone.

    Args:
        function: A function of ``[rows, classes]`` twice, and of the columns ``[rows]``; one value for each row, which
            depends on that row alone.
        student: ``[*batch, classes]``.
        teacher: ``[*batch, classes]``.
        *columns: ``[*batch]``, without gradients, such as labels.
        find: The same with the slopes in closed form, for ordinary rows on a CPU. By default the slopes of a block come
            from automatic differentiation.
        block: The number of values of a block, about; by default chosen for the device.

    Example:
        >>> x, y = torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.zeros(2, 2)
        >>> compute_by_rows(lambda a, b: (a - b).sum(-1), x, y, block=2)
        tensor([3., 8.])
    """
    leading, classes = student.shape[:-1], student.shape[-1]
    if not student.numel() or torch.compiler.is_compiling():
        return function(student, teacher, *columns)
    rows = [student.reshape(-1, classes), teacher.reshape(-1, classes), *(one.reshape(-1) for one in columns)]
    return compute_by_examples(function, *rows, find=find, block=block).reshape(leading)


def compute_by_examples(
    function: Callable[..., Tensor], *tensors: Tensor, find: FindSlopes | None = None, block: int | None = None
) -> Tensor:
    """Compute a function of examples in blocks, as `compute_by_rows` does it for rows.

    Args:
        function: A function of the tensors; one value for each example, which depends on that example alone.
        *tensors: ``[batch, ...]``; only the first two may need gradients.
        find: The same with the slopes in closed form.
        block: The number of values of the first tensor in a block, about.

    Example:
        >>> compute_by_examples(lambda x: x.sum((1, 2)), torch.ones(4, 3, 2), block=6)
        tensor([6., 6., 6., 6.])
    """
    first = tensors[0]
    if block is None:
        block = _BLOCK if first.device.type == "cpu" else _LARGE_BLOCK
    find = find if first.device.type == "cpu" else None
    if not first.numel() or (find is None and first.numel() <= block):
        return function(*tensors)
    size = max(block * len(first) // first.numel(), 1)
    value = apply_slopes(function, functools.partial(_find_in_blocks, function, find, size), *tensors)
    return function(*tensors) if value is None else value


def apply_slopes(function: Callable[..., Tensor], find: FindSlopes, *tensors: Tensor) -> Tensor | None:
    """Compute values and slopes with `find`; second derivatives are those of `function`, of the same values.

    None if `find` gives none, and inside torch.compile and the transforms of torch.func.

    Args:
        function: A function of the tensors, of which the values may have any shape.
        find: The values with the slopes. The dimensions of the values are the first of a slope.
        *tensors: The arguments; only the first two may need gradients.

    Example:
        >>> x = torch.tensor([1.0, 3.0], requires_grad=True)
        >>> value = apply_slopes(torch.square, lambda needed, x: (x * x, (2 * x,)), x)
        >>> torch.autograd.grad(value.sum(), x)
        (tensor([2., 6.]),)
    """
    if torch.compiler.is_compiling():
        return None
    try:
        value: Tensor | None = _KeptSlopes.apply(function, find, torch.is_grad_enabled(), *tensors)
        return value
    except RuntimeError:  # inside vmap, grad, jacrev, ... of torch.func
        if not inside_transform(*tensors):
            raise
        return None


class _KeptSlopes(torch.autograd.Function):
    """The values; their slopes are kept, and scaled in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, function: Callable[..., Tensor], find: FindSlopes, differentiate: bool, *tensors: Tensor
    ) -> Tensor | None:
        ctx.set_materialize_grads(False)
        result = find(tuple(differentiate and one.requires_grad for one in tensors[:2]), *tensors)
        if result is None:
            return None
        value, slopes = result
        ctx.function, ctx.count = function, len(tensors)
        ctx.save_for_backward(*tensors, *slopes)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Any, ...]:
        count, saved = ctx.count, ctx.saved_tensors
        nothing = (None,) * count
        if grad is None:
            return None, None, None, *nothing
        needed, gradients = ctx.needs_input_grad[3:5], []
        last = not keeps_graph(grad)
        for want, slope in zip(needed, saved[count:], strict=True):
            if want and (slope is None or torch.is_grad_enabled()):
                # For second derivatives the slopes must be functions of the tensors.
                gradients = _differentiate(ctx.function, saved[:count], needed, grad)
                break
            gradients.append(_times(slope, grad, last) if want else None)
        return None, None, None, *gradients, *nothing[len(gradients) :]


def _times(slope: Tensor, grad: Tensor, last: bool) -> Tensor:
    scale = grad.reshape(grad.shape + (1,) * (slope.ndim - grad.ndim))
    return scaled(slope, scale, into=slope if last else None)


def _differentiate(function: Callable[..., Tensor], tensors: Any, needed: Any, grad: Tensor) -> list[Tensor | None]:
    """The gradients of the first two tensors, with a graph if one is asked for; None where one is not needed."""
    wanted = [one for one, want in zip(tensors, needed, strict=False) if want]
    with_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        value = function(*tensors)
        gradients = iter(torch.autograd.grad(value, wanted, grad, create_graph=with_graph, materialize_grads=True))
    return [next(gradients) if want else None for want in needed]


def find_by_autograd(function: Callable[..., Tensor], needed: Needed, *tensors: Tensor) -> tuple[Tensor, Slopes]:
    """The values of a function, and the slopes of their sum by automatic differentiation.

    Example:
        >>> find_by_autograd(torch.square, (True,), torch.tensor([3.0]))
        (tensor([9.]), [tensor([6.])])
    """
    if not any(needed):
        return function(*tensors), [None] * len(needed)
    parts = [one.detach() for one in tensors]
    for part, want in zip(parts, needed, strict=False):
        part.requires_grad_(want)
    wanted = [part for part, want in zip(parts, needed, strict=False) if want]
    with torch.enable_grad():
        value = function(*parts)
        total = value.sum()
        if not total.requires_grad:  # constant, such as the values of rows without a label
            return value, [torch.zeros_like(part) if want else None for part, want in zip(parts, needed, strict=False)]
        gradients = iter(torch.autograd.grad(total, wanted, materialize_grads=True))
    return value.detach(), [next(gradients) if want else None for want in needed]


def _find_in_blocks(
    function: Callable[..., Tensor], find: FindSlopes | None, size: int, needed: Needed, *tensors: Tensor
) -> tuple[Tensor, Slopes]:
    """The values and slopes of all examples, `size` of them at a time."""
    if len(tensors[0]) <= size:
        return _find_one_block(function, find, needed, *tensors)
    values: list[Tensor] = []
    slopes = [torch.empty_like(one) if want else None for one, want in zip(tensors, needed, strict=False)]
    for start in range(0, len(tensors[0]), size):
        part = slice(start, start + size)
        value, part_slopes = _find_one_block(function, find, needed, *(one[part] for one in tensors))
        values.append(value)
        for slope, own in zip(slopes, part_slopes, strict=True):
            if slope is not None and own is not None:
                slope[part] = own
    return torch.cat(values), slopes


def _find_one_block(
    function: Callable[..., Tensor], find: FindSlopes | None, needed: Needed, *tensors: Tensor
) -> tuple[Tensor, Slopes]:
    result = None if find is None else find(needed, *tensors)
    return find_by_autograd(function, needed, *tensors) if result is None else result
