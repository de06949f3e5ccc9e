"""Cost of a model: latency, parameters, bytes, multiply-adds, memory."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from limbeck.batch import LOGITS, Batch, Inputs, input_rows
from limbeck.errors import LimbeckError
from limbeck.metrics.compute import macs, peak_bytes
from limbeck.models import count_parameters, size_in_bytes
from limbeck.models.safetensors_io import write_weights
from limbeck.models.size_and_hash import tensors_of
from limbeck.tap import FrozenParameters, call
from limbeck.teachers import Preprocess, Teacher

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
    with on_threads(threads), FrozenParameters(model), torch.no_grad():
        for _ in range(WARM_UP):
            call(model, inputs)
        return 1e3 * statistics.median(seconds_of_call(model, inputs) for _ in range(repeats)) / size


def answer_latency(
    teacher: Teacher,
    batch: Batch,
    *,
    preprocess: Preprocess = lambda batch: batch.inputs,
    repeats: int = 30,
    threads: int = 1,
) -> float:
    """Milliseconds that a teacher takes to answer one example with its logits, on the CPU; taken as in `latency`.

    Args:
        teacher: Any teacher, bound to its models: an ensemble, specialists, an estimator.
        batch: What it is asked.
        preprocess: The way from the batch to inputs, for a teacher that declares none.
        repeats: How many answers are timed.
        threads: CPU threads of PyTorch meanwhile.

    Returns:
        Milliseconds for one example: the median over answers, divided by the batch.

    Raises:
        LimbeckError: If `repeats` or `threads` is below 1, or the batch holds no example.

    Example:
        >>> from limbeck.teachers import ModelTeacher
        >>> answer_latency(ModelTeacher(nn.Linear(4, 2)), Batch(torch.zeros(8, 4)), repeats=3) > 0
        True
    """
    if repeats < 1 or threads < 1 or batch.size < 1:
        raise LimbeckError(
            "answer_latency needs repeats, threads and examples of at least 1; "
            f"got {repeats}, {threads} and {batch.size}."
        )
    prepared = teacher.prepare(frozenset({LOGITS}), device=torch.device("cpu"), preprocess=preprocess)
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


BATCHES = (1, 64)


class Latency(NamedTuple):
    """Milliseconds until a whole batch is answered.

    Attributes:
        p50: The median over passes.
        p95: What 95 of 100 passes do not exceed.
    """

    p50: float
    p95: float


class CostInFull(NamedTuple):
    """What a model costs to run and to keep.

    Attributes:
        parameters: How many; shared ones count once.
        macs: Multiply-adds for one example; see `macs`.
        disk_bytes: Of its safetensors file.
        latency: By batch size.
        peak_bytes: By batch size; see `peak_bytes`.
        threads: CPU threads that the latency was taken with.
    """

    parameters: int
    macs: int
    disk_bytes: int
    latency: Mapping[int, Latency]
    peak_bytes: Mapping[int, int]
    threads: int

    def as_dict(self) -> dict[str, int | float]:
        """The same, flat, by names such as ``milliseconds_p95_batch_64``."""
        fields: dict[str, int | float] = {"parameters": self.parameters, "macs": self.macs, "threads": self.threads}
        fields["disk_bytes"] = self.disk_bytes
        for size, (p50, p95) in self.latency.items():
            fields[f"milliseconds_p50_batch_{size}"] = round(p50, 6)
            fields[f"milliseconds_p95_batch_{size}"] = round(p95, 6)
        return fields | {f"peak_bytes_batch_{size}": peak for size, peak in self.peak_bytes.items()}


def cost_in_full(
    model: nn.Module, inputs: Inputs, *, batches: Sequence[int] = BATCHES, repeats: int = 40, threads: int = 1
) -> CostInFull:
    """Parameters, multiply-adds, bytes on disk, latency and peak memory of a model, where it is.

    Args:
        model: Any module.
        inputs: What it is called with, on its device; their rows are repeated or left out to make each batch.
        batches: Sizes to answer.
        repeats: How many passes are timed at each size; of fewer than 20, the 95th percentile is close to the slowest.
        threads: CPU threads of PyTorch meanwhile.

    Raises:
        LimbeckError: If a batch size, `repeats` or `threads` is below 1, or the inputs hold no example.

    Example:
        >>> cost_in_full(nn.Linear(4, 2), torch.zeros(8, 4), repeats=3).macs
        8
    """
    return CostInFull(
        count_parameters(model),
        macs(model, inputs),
        disk_bytes(model),
        latencies(model, inputs, batches=batches, repeats=repeats, threads=threads),
        {size: peak_bytes(model, _batch_of(inputs, size)) for size in batches},
        threads,
    )


def latencies(
    model: nn.Module, inputs: Inputs, *, batches: Sequence[int] = BATCHES, repeats: int = 40, threads: int = 1
) -> dict[int, Latency]:
    """Milliseconds until a whole batch is answered, by batch size: the median pass and the 95th percentile.

    In eval mode, without gradient, after three passes to warm up, on the device where the model is.

    Args:
        model: Any module.
        inputs: What it is called with; their rows are repeated or left out to make each batch.
        batches: Sizes to answer.
        repeats: How many passes are timed at each size.
        threads: CPU threads of PyTorch meanwhile; the setting is put back.

    Raises:
        LimbeckError: If a batch size, `repeats` or `threads` is below 1, or the inputs hold no example.

    Example:
        >>> sorted(latencies(nn.Linear(4, 2), torch.zeros(8, 4), repeats=3))
        [1, 64]
    """
    if min(repeats, threads, *batches) < 1:
        raise LimbeckError(
            f"latencies needs batch sizes, repeats and threads of at least 1; got {tuple(batches)}, {repeats} and "
            f"{threads}."
        )
    with on_threads(threads), FrozenParameters(model), torch.no_grad():
        return {size: _latency(model, _batch_of(inputs, size), repeats) for size in batches}


def disk_bytes(model: nn.Module) -> int:
    """Bytes of the safetensors file of a model's weights, as a student's folder holds it: header and all.

    Example:
        >>> disk_bytes(nn.Linear(3, 2)) > 4 * 8
        True
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        write_weights(tensors_of(model), path, header={})
        return path.stat().st_size


def _latency(model: nn.Module, inputs: Inputs, repeats: int) -> Latency:
    for _ in range(WARM_UP):
        call(model, inputs)
    seconds = torch.tensor([seconds_of_call(model, inputs) for _ in range(repeats)], dtype=torch.float64)
    p50, p95 = (1e3 * torch.quantile(seconds, torch.tensor([0.5, 0.95], dtype=torch.float64))).tolist()
    return Latency(p50, p95)


def _batch_of(inputs: Inputs, size: int) -> Inputs:
    have = Batch(inputs).size
    if have < 1:
        raise LimbeckError("A cost needs inputs with at least one example.")
    return input_rows(inputs, torch.arange(size) % have)
