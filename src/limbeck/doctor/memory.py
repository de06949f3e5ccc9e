"""The largest batch that fits: peak memory of steps with two batch sizes, and the memory that is free."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from limbeck.doctor.context import Finding, fail, passed, warn

LARGEST = "largest batch"

_PROCESS = Path("/proc/self")
_RESERVE = 0.9  # the share of the free memory that is counted on
_LEAST = 2**20  # bytes a row; below, the measurement is noise


class BatchMemory(NamedTuple):
    """Peak memory of a step as a straight line in the number of rows.

    Attributes:
        fixed: Bytes that do not depend on the batch: weights, gradients, optimizer state, buffers.
        row: Bytes for each row.
        limit: Bytes that a step may use at its peak.
    """

    fixed: float
    row: float
    limit: float

    @property
    def largest(self) -> int:
        """The largest number of rows that fits."""
        return max(int((self.limit - self.fixed) / max(self.row, 1.0)), 0)

    def needed(self, rows: int) -> float:
        """Bytes at the peak of a step with so many rows."""
        return self.fixed + self.row * rows


def measure_batch_memory(
    step: Callable[[int], None], sizes: tuple[int, int], *, device: torch.device
) -> BatchMemory | None:
    """Measure the peak memory of steps with two batch sizes, and draw a line through both.

    On a GPU the peak is PyTorch's; on a CPU it is that of the process's resident memory, which only Linux tells.

    Args:
        step: Takes one training step with a number of rows. It is called once before, so that gradients and the state
            of the optimizer exist.
        sizes: A small and a larger number of rows.
        device: The device of the step.

    Returns:
        The line; None where it cannot be measured.

    Example:
        >>> measure_batch_memory(lambda rows: None, (1, 2), device=torch.device("meta")) is None
        True
    """
    small, large = sizes
    step(small)
    peaks = [_peak(lambda rows=rows: step(rows), device) for rows in sizes]  # type: ignore[misc]
    free = free_memory(device)
    if None in peaks or free is None:
        return None
    low, high = (float(peak) for peak in peaks if peak is not None)
    row = max((high - low) / (large - small), 0.0)
    return BatchMemory(low - row * small, row, _used(device) + _RESERVE * free)


def judge_batch_memory(memory: BatchMemory | None, batch_size: int, width: int) -> Finding:
    """The finding for a measurement.

    Args:
        memory: The measurement.
        batch_size: The job's number of rows.
        width: The number of tokens of the measured rows, the longest of the data.
    """
    if memory is None:
        return warn(LARGEST, None, "Unknown: the peak of the memory cannot be measured here (Linux or a GPU can).")
    needed = memory.needed(batch_size)
    value = {**memory._asdict(), "batch_size": batch_size, "needed": needed, "largest": memory.largest}
    rows = f"rows of {width:,} tokens"
    if memory.row * batch_size < _LEAST:
        return passed(LARGEST, value, f"batch_size={batch_size} {rows} need less memory than can be measured.", "any")
    if needed <= memory.limit:
        return passed(
            LARGEST, value,
            f"batch_size={batch_size} {rows} need about {_size(needed)} of the {_size(memory.limit)} that can be used; "
            f"about {memory.largest:,} rows would fit.", f"{memory.largest:,} rows",
        )  # fmt: skip
    sentence = f"batch_size={batch_size} {rows} need about {_size(needed)}, and {_size(memory.limit)} can be used."
    parts = next((n for n in range(2, batch_size + 1) if batch_size % n == 0 and batch_size // n <= memory.largest), 0)
    hint = f"Type budget.batch_size={batch_size // max(parts, 1)} and budget.accumulate={parts} for the same updates."
    if not parts:
        hint = "Not one row fits: take shorter windows (data.max_length) or smaller models."
    return fail(LARGEST, value, f"{sentence} {hint}", f"{memory.largest:,} rows")


def free_memory(device: torch.device) -> int | None:
    """Bytes that a process can still take on a device, within the limit of its container; None if unknown."""
    if device.type == "cuda":
        outside, _ = torch.cuda.mem_get_info(device)
        return outside + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    free = _field(Path("/proc/meminfo"), "MemAvailable")
    limit, used = (_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    if free is None or limit is None or used is None:
        return free
    return min(free, limit - used)


def _used(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.memory_allocated(device))
    return float(_field(_PROCESS / "status", "VmRSS") or 0)


def _peak(action: Callable[[], None], device: torch.device) -> int | None:
    """Bytes in use at the peak of an action; None if unknown."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        action()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    _release_free_memory()
    try:
        (_PROCESS / "clear_refs").write_text("5")  # sets the mark of the highest resident memory back
    except OSError:
        return None
    action()
    return _field(_PROCESS / "status", "VmHWM") if device.type == "cpu" else None


def _release_free_memory() -> None:
    """Give memory back that earlier steps have freed: a step that gets it again would seem to need none."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def _field(file: Path, name: str) -> int | None:
    """A field of a file of the kernel, in bytes."""
    with contextlib.suppress(OSError):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # "max" is no limit
        return None


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"
