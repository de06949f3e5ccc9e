"""Cost of a model: latency, parameters, bytes, multiply-adds, memory."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from limbeck.batch import Batch, Inputs, input_rows
from limbeck.errors import LimbeckError
from limbeck.metrics.compute import macs, peak_bytes
from limbeck.model_call import call
from limbeck.models import count_parameters, size_in_bytes
from limbeck.models.latency import WARM_UP, median_milliseconds, on_threads, seconds_of_call
from limbeck.models.size_and_hash import tensors_of
from limbeck.models.weights import write_weights
from limbeck.tap import FrozenParameters
from limbeck.teachers import Preprocess, Teacher, TeacherContext


class Cost(NamedTuple):
    """The cost of a model.

    Attributes:
        milliseconds: Milliseconds per example; see `latency`.
        parameters: The number of parameters. Shared ones count once.
        megabytes: The size of parameters and persistent buffers in memory, in units of 10^6 bytes.
        threads: The number of CPU threads of the measurement.
    """

    milliseconds: float
    parameters: int
    megabytes: float
    threads: int


def latency(model: nn.Module, inputs: Inputs, *, repeats: int = 30, threads: int = 1) -> float:
    """Measure the milliseconds of a forward pass per example: the median over passes, divided by the batch size.

    The model runs in eval mode without gradients, on its device, after three warm-up passes. For the latency of a
    single request use a batch of one.

    Args:
        model: Any module.
        inputs: The inputs of the model on its device, for ``m(x)``, ``m(*x)`` or ``m(**x)``.
        repeats: The number of timed passes.
        threads: The number of PyTorch's CPU threads during the measurement. The setting is restored.

    Returns:
        Milliseconds per example.

    Raises:
        LimbeckError: If `repeats` or `threads` is below 1, or the inputs are empty.

    Example:
        >>> latency(nn.Linear(4, 2), torch.zeros(8, 4), repeats=3) > 0
        True
    """
    if repeats < 1 or threads < 1:
        raise LimbeckError(f"latency needs repeats and threads of at least 1; got {repeats} and {threads}.")
    size = Batch(inputs).size
    if size < 1:
        raise LimbeckError("latency needs inputs with at least one example.")
    with FrozenParameters(model):
        return median_milliseconds(model, inputs, repeats=repeats, threads=threads) / size


def answer_latency(
    teacher: Teacher,
    batch: Batch,
    *,
    preprocess: Preprocess = lambda batch: batch.inputs,
    repeats: int = 30,
    threads: int = 1,
) -> float:
    """Measure the milliseconds that a teacher needs for the logits of one example on the CPU, as in `latency`.

    Args:
        teacher: Any teacher, bound to its models.
        batch: The examples.
        preprocess: Maps the batch to inputs, for a teacher that declares no preprocessing.
        repeats: The number of timed passes.
        threads: The number of PyTorch's CPU threads during the measurement.

    Returns:
        Milliseconds per example: the median over passes, divided by the batch size.

    Raises:
        LimbeckError: If `repeats` or `threads` is below 1, or the batch is empty.

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
    prepared = teacher.open(TeacherContext(preprocess=preprocess))
    with on_threads(threads), prepared as answer:
        seconds = []
        for _ in range(WARM_UP + repeats):
            start = time.perf_counter()
            answer(batch)
            seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds[WARM_UP:]) / batch.size


def cost_of(model: nn.Module, inputs: Inputs, *, repeats: int = 30, threads: int = 1) -> Cost:
    """Measure `latency`, parameters and megabytes of a model.

    Raises:
        LimbeckError: As `latency` does.

    Example:
        >>> cost_of(nn.Linear(4, 2), torch.zeros(8, 4), repeats=3).parameters
        10
    """
    milliseconds = latency(model, inputs, repeats=repeats, threads=threads)
    return Cost(milliseconds, count_parameters(model), size_in_bytes(model) / 1e6, threads)


BATCHES = (1, 64)


class Latency(NamedTuple):
    """Milliseconds per batch.

    Attributes:
        p50: The median over passes.
        p95: The 95th percentile over passes.
    """

    p50: float
    p95: float


class CostInFull(NamedTuple):
    """The cost of a model.

    Attributes:
        parameters: The number of parameters. Shared ones count once.
        macs: Multiply-adds per example; see `macs`.
        disk_bytes: The size of the safetensors file.
        latency: Latency by batch size.
        peak_bytes: Peak memory by batch size; see `peak_bytes`.
        threads: The number of CPU threads of the measurement.
    """

    parameters: int
    macs: int
    disk_bytes: int
    latency: Mapping[int, Latency]
    peak_bytes: Mapping[int, int]
    threads: int

    def as_dict(self) -> dict[str, int | float]:
        """All values in one flat dictionary, by names such as ``milliseconds_p95_batch_64``."""
        fields: dict[str, int | float] = {"parameters": self.parameters, "macs": self.macs, "threads": self.threads}
        fields["disk_bytes"] = self.disk_bytes
        for size, (p50, p95) in self.latency.items():
            fields[f"milliseconds_p50_batch_{size}"] = round(p50, 6)
            fields[f"milliseconds_p95_batch_{size}"] = round(p95, 6)
        return fields | {f"peak_bytes_batch_{size}": peak for size, peak in self.peak_bytes.items()}


def cost_in_full(
    model: nn.Module, inputs: Inputs, *, batches: Sequence[int] = BATCHES, repeats: int = 40, threads: int = 1
) -> CostInFull:
    """Measure parameters, multiply-adds, bytes on disk, latency and peak memory of a model on its device.

    Args:
        model: Any module.
        inputs: The inputs of the model, on its device. Rows are repeated or dropped to make each batch.
        batches: The batch sizes.
        repeats: The number of timed passes for each size. With fewer than 20 the 95th percentile is close to the
            slowest.
        threads: The number of PyTorch's CPU threads during the measurement.

    Raises:
        LimbeckError: If a batch size, `repeats` or `threads` is below 1, or the inputs are empty.

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
    """Measure the milliseconds per batch, by batch size: the median and the 95th percentile over passes.

    The model runs in eval mode without gradients, on its device, after three warm-up passes.

    Args:
        model: Any module.
        inputs: The inputs of the model. Rows are repeated or dropped to make each batch.
        batches: The batch sizes.
        repeats: The number of timed passes for each size.
        threads: The number of PyTorch's CPU threads during the measurement. The setting is restored.

    Raises:
        LimbeckError: If a batch size, `repeats` or `threads` is below 1, or the inputs are empty.

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
    """Compute the size of the safetensors file of a model's weights, including its header.

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
