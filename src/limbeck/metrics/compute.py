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
from limbeck.model_call import call
from limbeck.models.size_and_hash import unwrap_compiled
from limbeck.tap import FrozenParameters


def macs(model: nn.Module, inputs: Inputs) -> int:
    """Count the multiply-adds of a forward pass for one example: half of PyTorch's FLOP counter.

    It counts matrix products, convolutions and attention, which are almost all operations. Sums, activations, norms,
    bilinear layers and quantized kernels are not counted. Fused kernels (recurrent layers, attention) are decomposed
    during the pass, so that they count. Training flags and settings are restored.

    Args:
        model: Any module.
        inputs: The model's inputs, on its device; the result is divided by their number of examples.

    Raises:
        LimbeckError: If the inputs are empty.

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
    """Measure the peak tensor memory of a forward pass in bytes: weights, buffers, inputs and all allocations.

    On the CPU, `torch.profiler` records the allocations of a second pass; on CUDA, the allocator reports its peak. The
    result is exact and repeatable, unlike the size of the process, where Python and its libraries are larger than a
    small model. Scratch memory of libraries (oneDNN, cuDNN on the CPU) is not included.

    Args:
        model: Any module.
        inputs: The inputs of the model, on its device, with the batch size to measure.

    Raises:
        LimbeckError: If the inputs are empty.

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
        call(model, inputs)  # the first pass may allocate memory that is kept
        peak = (
            _peak_on_cuda(model, inputs, device) if device.type == "cuda" else peak_on_cpu(lambda: call(model, inputs))
        )
    return sum(storage_bytes.values()) + peak


def peak_on_cpu(function: Callable[[], object]) -> int:
    """Measure the peak memory that PyTorch's allocator gave out during a call."""
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
    """Decompose fused kernels into operations that the counter knows, within the block."""
    from torch.backends import mha, mkldnn
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast = mha.get_fastpath_enabled()
    with ExitStack() as stack, warnings.catch_warnings():
        # Setting oneDNN's flags prints a warning about Intel GPUs on machines without one.
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
    """Silence the start and stop messages of the profiler on standard error, within the block."""
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
