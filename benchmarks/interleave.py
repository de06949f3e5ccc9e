"""Interleaved timing of loops, so that other load on the machine affects all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

_STARTS = 8


@dataclass
class Times:
    """The times of one loop's blocks, in order.

    Attributes:
        wall: Seconds of wall-clock time, one number per block.
        cpu: Seconds of processor time of all threads of the process, one number per block.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def extend(self, more: Times) -> None:
        """Append the blocks of another start."""
        self.wall += more.wall
        self.cpu += more.cpu


def interleave(loops: Mapping[str, Iterator[float]], *, rounds: int) -> dict[str, Times]:
    """Run a block of each loop in turn, `rounds` times, in alternating order.

    Every loop first runs one block without timing, for set-up and warm-up.

    Args:
        loops: Loops by name, each with at least ``rounds + 1`` blocks left.
        rounds: Number of timed blocks of each loop.
    """
    times = {name: Times() for name in loops}
    for loop in loops.values():
        next(loop)
    for number in range(rounds):
        for name in list(loops)[:: 1 if number % 2 == 0 else -1]:
            wall, cpu = time.perf_counter(), time.process_time()
            next(loops[name])
            times[name].wall.append(time.perf_counter() - wall)
            times[name].cpu.append(time.process_time() - cpu)
    return times


def interleave_starts(begin: Mapping[str, Callable[[int], Iterator[float]]], *, rounds: int) -> dict[str, Times]:
    """The rounds of several starts, because the position of the weights in memory changes the time by some per cent.

    Args:
        begin: Functions by loop name, from the number of blocks to the loop.
        rounds: Number of timed blocks of each loop over all starts.
    """
    times = {name: Times() for name in begin}
    for start in range(min(_STARTS, rounds)):
        share = len(range(start, rounds, _STARTS))
        order = list(begin)[:: 1 if start % 2 == 0 else -1]
        results = interleave({name: begin[name](share + 1) for name in order}, rounds=share)
        for name, more in results.items():
            times[name].extend(more)
    return times


def ratio(times: list[float], reference: list[float]) -> float:
    """The median time of a block over that of a block of the reference."""
    return statistics.median(times) / statistics.median(reference)


def paired_ratio(times: list[float], reference: list[float]) -> float:
    """The median, over rounds, of a block's time over that of the reference's in the same round.

    If the speed of the machine changes over time, this changes less than `ratio`.
    """
    return statistics.median(mine / its for mine, its in zip(times, reference, strict=True))


def paired_quartiles(times: list[float], reference: list[float]) -> tuple[float, float]:
    """The first and third quartile, over rounds, of a block's time over that of the reference's in the same round."""
    ratios = [mine / its for mine, its in zip(times, reference, strict=True)]
    if len(ratios) < 2:
        return ratios[0], ratios[0]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return low, high
