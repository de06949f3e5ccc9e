"""What does a model cost: milliseconds, parameters, megabytes?"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.models import count_parameters, size_in_bytes
from limbeck.signal import LOGITS, Batch, Inputs
from limbeck.tap import Frozen, call
from limbeck.teachers import Reads, Teacher

WARM_UP = 3
"""Passes before any is timed."""


class Cost(NamedTuple):
    """What a model costs to run and to keep.

    Attributes:
        milliseconds: For one example; see `latency`.
        parameters: How many; shared ones count once.
        megabytes: Of parameters and persistent buffers as they lie in memory, in units of 10^6 bytes.
        threads: CPU threads that the milliseconds were taken with.
    """

    milliseconds: float
    parameters: int
    megabytes: float
    threads: int


def latency(model: nn.Module, inputs: Inputs, *, repeats: int = 30, threads: int = 1) -> float:
    """Milliseconds that a forward pass takes for one example: the median over passes, divided by the batch.

    In eval mode, without gradient, after three passes to warm up, on the device where the model is. For the time of a
    single answer give a batch of one.

    Args:
        model: Any module.
        inputs: What it is called with, on its device: ``m(x)``, ``m(*x)`` or ``m(**x)``.
        repeats: How many passes are timed.
        threads: CPU threads of PyTorch meanwhile; one, unless you say otherwise. The setting is put back.

    Returns:
        Milliseconds for one example.

    Raises:
        LimbeckError: If `repeats` or `threads` is below 1, or the inputs hold no example.

    Example:
        >>> latency(nn.Linear(4, 2), torch.zeros(8, 4), repeats=3) > 0
        True
    """
    if repeats < 1 or threads < 1:
        raise LimbeckError(f"latency needs repeats and threads of at least 1; got {repeats} and {threads}.")
    size = Batch(inputs).size
    if size < 1:
        raise LimbeckError("latency needs inputs with at least one example.")
    with on_threads(threads), Frozen(model), torch.no_grad():
        for _ in range(WARM_UP):
            call(model, inputs)
        return 1e3 * statistics.median(seconds_of_call(model, inputs) for _ in range(repeats)) / size


def answer_latency(
    teacher: Teacher, batch: Batch, *, reads: Reads = lambda batch: batch.inputs, repeats: int = 30, threads: int = 1
) -> float:
    """Milliseconds that a teacher takes to answer one example with its logits, on the CPU; taken as in `latency`.

    Args:
        teacher: Any teacher, bound to its models: an ensemble, specialists, an estimator.
        batch: What it is asked.
        reads: The way from the batch to inputs, for a teacher that declares none.
        repeats: How many answers are timed.
        threads: CPU threads of PyTorch meanwhile.

    Returns:
        Milliseconds for one example: the median over answers, divided by the batch.

    Raises:
        LimbeckError: If `repeats` or `threads` is below 1, or the batch holds no example.

    Example:
        >>> from limbeck.teachers import Live
        >>> answer_latency(Live(nn.Linear(4, 2)), Batch(torch.zeros(8, 4)), repeats=3) > 0
        True
    """
    if repeats < 1 or threads < 1 or batch.size < 1:
        raise LimbeckError(
            "answer_latency needs repeats, threads and examples of at least 1; "
            f"got {repeats}, {threads} and {batch.size}."
        )
    prepared = teacher.prepare(frozenset({LOGITS}), device=torch.device("cpu"), reads=reads)
    with on_threads(threads), prepared as answer:
        seconds = []
        for _ in range(WARM_UP + repeats):
            start = time.perf_counter()
            answer(batch)
            seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds[WARM_UP:]) / batch.size


def cost_of(model: nn.Module, inputs: Inputs, *, repeats: int = 30, threads: int = 1) -> Cost:
    """`latency`, parameters and megabytes of a model.

    Raises:
        LimbeckError: As `latency` does.

    Example:
        >>> cost_of(nn.Linear(4, 2), torch.zeros(8, 4), repeats=3).parameters
        10
    """
    milliseconds = latency(model, inputs, repeats=repeats, threads=threads)
    return Cost(milliseconds, count_parameters(model), size_in_bytes(model) / 1e6, threads)


def seconds_of_call(model: nn.Module, inputs: Inputs) -> float:
    """Seconds from a call until its output is there, on whichever device."""
    _wait(model)
    start = time.perf_counter()
    output = call(model, inputs)
    _wait(model)
    elapsed = time.perf_counter() - start
    del output
    return elapsed


def _wait(model: nn.Module) -> None:
    # An accelerator answers before it has computed.
    device: Any = next((p.device for p in model.parameters()), torch.device("cpu"))
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """A block within which PyTorch has so many CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
