"""Functions of single rows, computed in blocks, and once more in the backward pass, so that memory stays small."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from limbeck.functional.blockwise import inside_transform

_BLOCK = 1 << 16  # values of a block on a CPU; smaller inputs are computed at once
_LARGE_BLOCK = 1 << 24  # on an accelerator, where the calls for many small blocks would take longer than the blocks


def compute_by_rows(
    function: Callable[..., Tensor], student: Tensor, teacher: Tensor, *columns: Tensor, block: int | None = None
) -> Tensor:
    """Compute a function of rows of logits, without keeping what its gradient needs: that is computed again.

    Kernels that are written with many operations keep ten or more tensors of the size of the logits for the backward
    pass. Here only the inputs are kept, and the temporary tensors of one block of rows. It takes one more forward pass.

    Args:
        function: A function of ``[rows, classes]`` twice, and of the columns ``[rows]``; one value for each row, which
            depends on that row alone.
        student: ``[*batch, classes]``.
        teacher: ``[*batch, classes]``.
        *columns: ``[*batch]``, without gradients, such as labels.
        block: The number of values of a block, about; by default chosen for the device.

    Example:
        >>> x, y = torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.zeros(2, 2)
        >>> compute_by_rows(lambda a, b: (a - b).sum(-1), x, y, block=2)
        tensor([3., 8.])
    """
    leading, classes = student.shape[:-1], student.shape[-1]
    if block is None:
        block = _BLOCK if student.device.type == "cpu" else _LARGE_BLOCK
    if student.numel() <= block or torch.compiler.is_compiling():
        return function(student, teacher, *columns)
    rows = [student.reshape(-1, classes), teacher.reshape(-1, classes), *(one.reshape(-1) for one in columns)]
    try:
        value: Tensor = _RowBlocks.apply(function, max(block // classes, 1), *rows)
    except RuntimeError:  # inside vmap, grad, jacrev, ... of torch.func
        if not inside_transform(student, teacher):
            raise
        return function(student, teacher, *columns)
    return value.reshape(leading)


class _RowBlocks(torch.autograd.Function):
    """The values block by block; the backward pass computes each block again, with a graph."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], rows: int, *tensors: Tensor) -> Tensor:
        ctx.function, ctx.rows = function, rows
        ctx.save_for_backward(*tensors)
        return torch.cat([function(*parts) for parts in zip(*(one.split(rows) for one in tensors), strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        tensors, needed = ctx.saved_tensors, ctx.needs_input_grad[2:4]
        nothing = (None,) * (len(tensors) - 2)
        if torch.is_grad_enabled():  # for second derivatives the gradient must be a function of the logits
            return None, None, *_find_slopes(ctx.function, tensors, needed, grad, create_graph=True), *nothing
        slopes = [torch.empty_like(one) if wanted else None for one, wanted in zip(tensors, needed, strict=False)]
        for start in range(0, len(grad), ctx.rows):
            part = slice(start, start + ctx.rows)
            parts = [one[part].detach() for one in tensors]
            for one, wanted in zip(parts, needed, strict=False):
                one.requires_grad_(wanted)
            for slope, found in zip(slopes, _find_slopes(ctx.function, parts, needed, grad[part]), strict=True):
                if slope is not None and found is not None:
                    slope[part] = found
        return None, None, *slopes, *nothing


def _find_slopes(
    function: Callable[..., Tensor], tensors: Any, needed: Any, grad: Tensor, *, create_graph: bool = False
) -> list[Tensor | None]:
    """The gradients of the first two tensors; None where one is not needed."""
    with torch.enable_grad():
        value = function(*tensors)
        wanted = [one for one, want in zip(tensors, needed, strict=False) if want]
        found = iter(torch.autograd.grad(value, wanted, grad, create_graph=create_graph))
    return [next(found) if want else None for want in needed]
