"""What does a model cost, in every figure that a person may have to decide on?"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.measure.compute import macs, peak_bytes
from limbeck.measure.cost import WARM_UP, on_threads, seconds_of_call
from limbeck.models import count_parameters
from limbeck.models.safefile import write_weights
from limbeck.models.size import tensors_of
from limbeck.signal import Batch, Inputs, input_rows
from limbeck.tap import Frozen, call

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
        found: dict[str, int | float] = {"parameters": self.parameters, "macs": self.macs, "threads": self.threads}
        found["disk_bytes"] = self.disk_bytes
        for size, (p50, p95) in self.latency.items():
            found[f"milliseconds_p50_batch_{size}"] = round(p50, 6)
            found[f"milliseconds_p95_batch_{size}"] = round(p95, 6)
        return found | {f"peak_bytes_batch_{size}": peak for size, peak in self.peak_bytes.items()}


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
    with on_threads(threads), Frozen(model), torch.no_grad():
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
