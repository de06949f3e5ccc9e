"""Divergences on a CPU, computed block by block in reused memory."""

from __future__ import annotations

import threading
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

AT_ONCE = 1 << 18
"""The number of values in a block. Smaller blocks have too much overhead, larger ones do not fit into the CPU
caches."""

AT_MOST = 1 << 19
"""The number of values up to which rows are not split. With a large vocabulary the overhead of blocks weighs more."""

_REGISTER = 16  # float32 values


_KEPT = threading.local()
_PLAIN = (Tensor, torch.nn.Parameter)


class Rows(NamedTuple):
    """Some rows of a batch, the tensors for the results, and work buffers.

    Attributes:
        scale: 1/T.
        value: The result, without T^2; NaN for rows that need the general formula.
        student: Logits.
        teacher: Logits.
        by_student: The result for the gradient of the student, if needed.
        by_teacher: The result for the gradient of the teacher, if needed.
        buffers: Buffers of the size of the logits, created on first use.
    """

    scale: float
    value: Tensor
    student: Tensor
    teacher: Tensor
    by_student: Tensor | None
    by_teacher: Tensor | None
    buffers: Buffers


class Buffers:
    """Work memory of the thread for some rows, reused at every call.

    New memory pages cost more than the arithmetic on them. Each of the five buffers grows to at most `AT_MOST` values;
    larger requests get new memory.
    """

    def __init__(self, dtype: torch.dtype, rows: int, classes: int) -> None:
        self._dtype, self._shape = dtype, (rows, classes)
        self._views: dict[int, Tensor] = {}

    def __getitem__(self, number: int) -> Tensor:
        """Return the buffer of a number from 0 to 4. Use low numbers first, to have as few buffers as possible."""
        if number not in self._views:
            size = self._shape[0] * self._shape[1]
            self._views[number] = buffer(number, self._dtype, size).view(self._shape)
        return self._views[number]


def buffer(number: int, dtype: torch.dtype, size: int) -> Tensor:
    """Return memory of the thread for `size` numbers. A buffer is identified by `number` and `dtype`."""
    if size > AT_MOST:
        return torch.empty(size, dtype=dtype)
    buffers: dict[tuple[int, torch.dtype], Tensor] = _KEPT.__dict__.setdefault("buffers", {})
    memory = buffers.get((number, dtype))
    if memory is None or len(memory) < size:
        memory = buffers[number, dtype] = torch.empty(size, dtype=dtype)
    return memory if len(memory) == size else memory[:size]


def release_buffers() -> None:
    """Release the buffers of this thread, at most 10 MB per dtype."""
    _KEPT.__dict__.clear()


class Quick:
    """A divergence with an in-place implementation for rows without -inf and without extreme values."""

    few: ClassVar[float | None] = None
    """The value above which `Form.__call__`, with fewer operations, is faster for small batches."""

    def fill(self, rows: Rows) -> None:
        """Write values and gradients. A value that is not finite marks a row that needs the general formula."""
        raise NotImplementedError


def in_blocks(
    student: Tensor, teacher: Tensor, temperature: float, form: Quick, wants: tuple[bool, bool]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Compute values (without T^2) and the needed gradients block by block."""
    shape = student.shape
    value = student.new_empty(shape[:-1])
    mine, theirs = (torch.empty(shape, dtype=student.dtype) if needed else None for needed in wants)
    classes, scale = shape[-1], 1 / temperature
    size = max(1, AT_ONCE // classes)
    count = student.numel() // classes
    # On a small batch each view costs as much as some arithmetic, so views are made only where needed.
    parts = [_flat(tensor, classes) for tensor in (student, teacher, mine, theirs)]
    flat = value if value.ndim == 1 else value.view(-1)
    if student.numel() <= AT_MOST:
        form.fill(Rows(scale, flat, *parts, Buffers(student.dtype, count, classes)))  # type: ignore[arg-type, call-arg]
        return value, mine, theirs
    for start in range(0, count, size):
        end = min(start + size, count)
        cut = [None if part is None else part[start:end] for part in parts]
        buffers = Buffers(student.dtype, end - start, classes)
        form.fill(Rows(scale, flat[start:end], *cut, buffers))  # type: ignore[arg-type, call-arg]
    return value, mine, theirs


def keeps_graph(grad: Tensor) -> bool:
    """Whether the saved tensors of the backward pass must not be overwritten.

    The graph may be used again, or `grad` is a batch of gradients (``is_grads_batched=True``), which does not fit into
    the saved tensor.
    """
    # A private function of PyTorch, which other versions may not have; then the tensors are kept.
    keep_graph = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return keep_graph is None or torch.compiler.is_compiling() or bool(keep_graph()) or _is_batched(grad)


def inside_transform(*tensors: Tensor) -> bool:
    """Whether vmap, grad, jvp, ... or a tracer is active. They raise a RuntimeError for some operations.

    Any other RuntimeError, such as out of memory, must reach the caller.
    """
    if torch._C._functorch.maybe_current_level() is not None or torch.autograd.forward_ad._current_level >= 0:
        return True
    traced = torch._C._len_torch_dispatch_stack() > 0
    return traced or any(_is_batched(tensor) or type(tensor) not in _PLAIN for tensor in tensors)


def _is_batched(tensor: Tensor) -> bool:
    return bool(torch._C._functorch.is_legacy_batchedtensor(tensor))


def _flat(tensor: Tensor | None, classes: int) -> Tensor | None:
    return tensor if tensor is None or tensor.ndim == 2 else tensor.reshape(-1, classes)


def softmax_into(logits: Tensor, scale: float, out: Tensor) -> Tensor:
    """Compute ``softmax(scale * logits)`` over the last dimension.

    With fewer classes than a vector register has, PyTorch does not vectorize along the last dimension. Along the first
    dimension it does.
    """
    tempered = logits if scale == 1 else torch.mul(logits, scale, out=out)
    if logits.shape[-1] < _REGISTER:
        return out.copy_(torch.softmax(tempered.t(), 0).t())
    return torch.softmax(tempered, -1, out=out)


def through_softmax_into(q: Tensor, slope: Tensor, out: Tensor) -> Tensor:
    """Compute ``q * (slope - sum(q * slope))``, the gradient in logits; `out` may be `slope`.

    PyTorch's backward pass of softmax is used where it is fast, that is, for rows longer than a vector register.
    """
    if q.shape[-1] < _REGISTER:
        mean = (q * slope).sum(-1, keepdim=True)
        return torch.sub(slope, mean, out=out).mul_(q)
    result: Tensor = torch.ops.aten._softmax_backward_data.out(slope, q, -1, q.dtype, grad_input=out)
    return result
