"""Times calls of a model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from limbeck.batch import Inputs
from limbeck.model_call import call

WARM_UP = 3

"""The number of warm-up passes."""


def seconds_of_call(model: nn.Module, inputs: Inputs) -> float:
    """Measure the seconds of a call, on any device."""
    _wait(model)
    start = time.perf_counter()
    output = call(model, inputs)
    _wait(model)
    elapsed = time.perf_counter() - start
    del output
    return elapsed


def median_milliseconds(model: nn.Module, inputs: Inputs, *, repeats: int, threads: int = 1) -> float:
    """The median milliseconds of a call after warm-up passes, without gradients, in the mode that the model is in."""
    with on_threads(threads), torch.no_grad():
        for _ in range(WARM_UP):
            call(model, inputs)
        return 1e3 * statistics.median(seconds_of_call(model, inputs) for _ in range(repeats))


def _wait(model: nn.Module) -> None:
    # On an accelerator a call returns before the computation has finished.
    device: Any = next((p.device for p in model.parameters()), torch.device("cpu"))
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Set the number of PyTorch's CPU threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
