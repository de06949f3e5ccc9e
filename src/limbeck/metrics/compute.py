"""Multiply-adds and peak memory of one forward pass."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.batch import Batch, Inputs
from limbeck.errors import LimbeckError
from limbeck.models.size_and_hash import unwrap_compiled
from limbeck.tap import FrozenParameters, call


def macs(model: nn.Module, inputs: Inputs) -> int:
    """Multiply-adds of one example's forward pass: half the floating-point operations of PyTorch's own counter.

    It counts matrix products, convolutions and attention, which are nearly all there is; sums, activations, norms,
    bilinear layers and quantized kernels are not counted. Fused kernels (recurrent layers, attention) are taken apart
    meanwhile, so that they count. Training flags and every setting are put back.

    Args:
        model: Any module.
        inputs: What it is called with, on its device; the result is divided by how many examples they hold.

    Raises:
        LimbeckError: If the inputs hold no example.

    Example:
        >>> macs(nn.Linear(4, 3), torch.zeros(8, 4))
        12
    """
    from torch.utils.flop_counter import FlopCounterMode

    size, plain = _size("macs", inputs), unwrap_compiled(model)
    with FrozenParameters(plain), torch.no_grad(), _taken_apart(), FlopCounterMode(display=False) as counter:
        call(plain, inputs)
    return round(counter.get_total_flops() / 2 / size)


def peak_bytes(model: nn.Module, inputs: Inputs) -> int:
    """Bytes of tensors at the fullest moment of one forward pass: weights, buffers, inputs and all that it allocates.

    On the CPU, what PyTorch's allocator gave out and took back in a second pass, by `torch.profiler`; on CUDA, by the
    allocator's own peak. It is exact and repeats, unlike the size of a process, in which Python and its libraries
    outweigh a small model. Scratch memory that a library takes for itself (oneDNN, cuDNN on the CPU) is not in it.

    Args:
        model: Any module.
        inputs: What it is called with, on its device: a batch of the size that is of interest.

    Raises:
        LimbeckError: If the inputs hold no example.

    Example:
        >>> peak_bytes(nn.Linear(4, 3, bias=False), torch.zeros(8, 4)) == 4 * (12 + 32 + 24)
        True
    """
    _size("peak_bytes", inputs)
    storage_bytes = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in _tensors(inputs)
    }
    for tensor in (*model.parameters(), *model.buffers()):
        storage_bytes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    with FrozenParameters(model), torch.no_grad():
        call(model, inputs)  # what is made once and kept is no part of a pass
        peak = (
            _peak_on_cuda(model, inputs, device) if device.type == "cuda" else peak_on_cpu(lambda: call(model, inputs))
        )
    return sum(storage_bytes.values()) + peak


def peak_on_cpu(function: Callable[[], object]) -> int:
    """The most bytes that a call held at once, of what PyTorch's allocator gave out while it ran."""
    from torch.profiler import ProfilerActivity, profile

    with _quiet_profiler(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        output = function()
    del output
    recorded: Any = profiler.profiler
    events = [event for event in recorded.kineto_results.events() if event.name() == "[memory]"]
    most = now = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def _peak_on_cuda(model: nn.Module, inputs: Inputs, device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call(model, inputs)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


@contextmanager
def _taken_apart() -> Iterator[None]:
    """A block within which fused kernels are made of the operations that the counter knows."""
    from torch.backends import mha, mkldnn
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = mha.get_fastpath_enabled()
    with ExitStack() as stack, warnings.catch_warnings():
        # Setting oneDNN's flags warns of Intel GPUs on machines that have none.
        warnings.simplefilter("ignore")
        stack.enter_context(mkldnn.flags(enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            mha.set_fastpath_enabled(fast)


@contextmanager
def _quiet_profiler() -> Iterator[None]:
    """A block within which the profiler does not write to standard error that it starts and stops."""
    before = os.environ.get("KINETO_LOG_LEVEL")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    try:
        yield
    finally:
        if before is None:
            del os.environ["KINETO_LOG_LEVEL"]


def _size(who: str, inputs: Inputs) -> int:
    size = Batch(inputs).size
    if size < 1:
        raise LimbeckError(f"{who} needs inputs with at least one example.")
    return size


def _tensors(inputs: Any) -> Iterator[Tensor]:
    if isinstance(inputs, Tensor):
        yield inputs
    elif isinstance(inputs, (Mapping, tuple, list)):
        for part in inputs.values() if isinstance(inputs, Mapping) else inputs:
            yield from _tensors(part)
