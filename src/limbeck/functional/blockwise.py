"""Divergences on a CPU, computed block by block in reused memory."""

from __future__ import annotations

import threading
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

AT_ONCE = 1 << 18
"""Values of a block. Smaller ones cost more in calls than they save, larger ones leave the processor's caches."""

_REGISTER = 16  # float32 values


_KEPT = threading.local()
_PLAIN = (Tensor, torch.nn.Parameter)


class Rows(NamedTuple):
    """Some rows of a batch, where the answers go, and buffers to work in.

    Attributes:
        scale: 1/T.
        value: Where the divergence goes, without T^2; NaN where it has to be found in another way.
        student: Logits.
        teacher: Logits.
        by_student: Where its slope goes, if wanted.
        by_teacher: The same for the teacher.
        buffers: As large as the logits, made when they are first asked for.
    """

    scale: float
    value: Tensor
    student: Tensor
    teacher: Tensor
    by_student: Tensor | None
    by_teacher: Tensor | None
    buffers: Buffers


class Buffers:
    """The thread's own memory for some rows: the same at every call.

    Pages of memory that are new cost more than the arithmetic on them. There is as much as was ever asked for, at most
    `AT_ONCE` values in each of the four; beyond, memory is the call's own.
    """

    def __init__(self, dtype: torch.dtype, rows: int, classes: int) -> None:
        self._dtype, self._shape = dtype, (rows, classes)
        self._views: dict[int, Tensor] = {}

    def __getitem__(self, number: int) -> Tensor:
        """The buffer of that number, of 0 to 3; low numbers first, so that there are no more than are needed."""
        if number not in self._views:
            size = self._shape[0] * self._shape[1]
            self._views[number] = buffer(number, self._dtype, size).view(self._shape)
        return self._views[number]


def buffer(number: int, dtype: torch.dtype, size: int) -> Tensor:
    """`size` numbers of memory, the thread's own; nothing but `number` and `dtype` tells one buffer from another."""
    if size > AT_ONCE:
        return torch.empty(size, dtype=dtype)
    buffers: dict[tuple[int, torch.dtype], Tensor] = _KEPT.__dict__.setdefault("buffers", {})
    memory = buffers.get((number, dtype))
    if memory is None or len(memory) < size:
        memory = buffers[number, dtype] = torch.empty(size, dtype=dtype)
    return memory if len(memory) == size else memory[:size]


def release_buffers() -> None:
    """Give back the memory that this thread keeps for divergences, 4 MB at most for each type of number."""
    _KEPT.__dict__.clear()


class Quick:
    """A divergence that knows how to be found in place, for rows without -inf and without extremes."""

    few: ClassVar[float | None] = None
    """The least value from which a small batch is better found by `Form.__call__`, which takes fewer operations."""

    def fill(self, rows: Rows) -> None:
        """Write values and slopes; a value that is not finite says that its row is left to others."""
        raise NotImplementedError


def in_blocks(
    student: Tensor, teacher: Tensor, temperature: float, form: Quick, wants: tuple[bool, bool]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Values (without T^2) and the slopes that are wanted, block by block."""
    shape = student.shape
    value = student.new_empty(shape[:-1])
    mine, theirs = (torch.empty(shape, dtype=student.dtype) if needed else None for needed in wants)
    classes, scale = shape[-1], 1 / temperature
    size = max(1, AT_ONCE // classes)
    count = student.numel() // classes
    # Each of these views costs as much as some arithmetic on a small batch, so they are made only where needed.
    parts = [_flat(tensor, classes) for tensor in (student, teacher, mine, theirs)]
    flat = value if value.ndim == 1 else value.view(-1)
    if count <= size:
        form.fill(Rows(scale, flat, *parts, Buffers(student.dtype, count, classes)))  # type: ignore[arg-type, call-arg]
        return value, mine, theirs
    for start in range(0, count, size):
        end = min(start + size, count)
        cut = [None if part is None else part[start:end] for part in parts]
        buffers = Buffers(student.dtype, end - start, classes)
        form.fill(Rows(scale, flat[start:end], *cut, buffers))  # type: ignore[arg-type, call-arg]
    return value, mine, theirs


def keeps_graph(grad: Tensor) -> bool:
    """Whether what the backward pass saved must stay as it is.

    The graph may be walked again, or `grad` stands for several gradients at once (``is_grads_batched=True``), which
    have no place in a tensor of one.
    """
    keep_graph = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return keep_graph is None or torch.compiler.is_compiling() or bool(keep_graph()) or _is_batched(grad)


def inside_transform(*tensors: Tensor) -> bool:
    """Whether vmap, grad, jvp, ... or a tracer is at work, which refuse some operations with a RuntimeError.

    Elsewhere a RuntimeError, as of a lack of memory, is the caller's to see.
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
    """``softmax(scale * logits)`` over the last dimension.

    Fewer classes than a vector register holds go one number at a time along the last dimension; along the first, as
    many examples as it holds go at once.
    """
    tempered = logits if scale == 1 else torch.mul(logits, scale, out=out)
    if logits.shape[-1] < _REGISTER:
        return out.copy_(torch.softmax(tempered.t(), 0).t())
    return torch.softmax(tempered, -1, out=out)


def through_softmax_into(q: Tensor, slope: Tensor, out: Tensor) -> Tensor:
    """``q * (slope - sum(q * slope))``: a slope in logits from one in probabilities; `out` may be `slope`.

    One pass where PyTorch's own backward pass of softmax is fast, which is not for rows shorter than a register.
    """
    if q.shape[-1] < _REGISTER:
        mean = (q * slope).sum(-1, keepdim=True)
        return torch.sub(slope, mean, out=out).mul_(q)
    result: Tensor = torch.ops.aten._softmax_backward_data.out(slope, q, -1, q.dtype, grad_input=out)
    return result
