"""Benchmark of the engine beside a hand-written loop and other toolkits."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.agreement import Apart, check_agreement, distance
from benchmarks.engine_loop import engine_blocks
from benchmarks.interleave import Times, interleave_starts, paired_quartiles, ratio
from benchmarks.peers import find_peers
from benchmarks.plain_loop import plain_blocks
from benchmarks.workload import PRECISIONS, Blocks, Plan, Sizes, Work, make_work
from limbeck.errors import LimbeckError

_CHECKED = 20
_PLAIN, _ENGINE = "plain", "engine"


def bench_loop(
    *,
    steps: int = 500,
    block: int = 25,
    threads: int | None = None,
    sizes: Sizes | None = None,
    peers: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Compare the time of the engine and of other toolkits with a hand-written loop of the same mathematics.

    Every loop trains the same student from the same teacher: ``0.1 CE + 0.9 T^2 KL`` at T = 4, AdamW, shuffled batches
    gathered from memory. First the engine and the plain loop run from the same weights on the same batches, and must
    end with the same weights. Then all loops run in turn in one process, block by block, in alternating order. The time
    of a block includes everything, also batches and reports.

    Args:
        steps: Timed steps of each loop in each precision, rounded up to whole blocks.
        block: Steps in a block.
        threads: CPU threads; PyTorch's choice by default.
        sizes: The sizes of data and networks; by default those of Hinton et al. on MNIST.
        peers: Whether to time other installed toolkits too.
        say: Gets messages about the progress.

    Returns:
        ``ratio_float32`` and ``ratio_bfloat16``: the median time of the engine's blocks over that of the plain loop's.
        ``quartiles_...``: the first and third quartile of the ratio over pairs of blocks. ``cpu_ratio_...``: the same
        ratio of processor time, which other programs on the machine disturb less. ``milliseconds``: precision -> loop
        -> median time of a step. ``agreement``: the final distance of engine and plain loop from the same start.
        ``peers``: name -> its ratios to the plain loop, version and note; or why it was skipped. And ``threads``,
        ``steps``, ``block``, ``torch``.

    Raises:
        LimbeckError: If a number is below 1, or the engine and the plain loop compute different things.
    """
    for name, value in (("steps", steps), ("block", block), ("threads", threads)):
        if value is not None and value < 1:
            raise LimbeckError(f"{name} must be at least 1; got {value}.")
    with _threads(threads):
        return _measured(make_work(sizes), math.ceil(steps / block), block, peers=peers, say=say)


def _measured(work: Work, rounds: int, block: int, *, peers: bool, say: Callable[[str], None]) -> dict[str, Any]:
    peers_by_name, skipped = find_peers() if peers else ({}, {})
    result: dict[str, Any] = {
        "peers": {name: {"version": peer.version, "note": peer.note} for name, peer in peers_by_name.items()},
        "milliseconds": {},
        "agreement": {},
    }
    result["peers"] |= {name: {"skipped": reason} for name, reason in skipped.items()}
    for precision in PRECISIONS:
        loops: dict[str, Blocks] = {_PLAIN: plain_blocks, _ENGINE: engine_blocks}
        loops |= {name: peer.blocks for name, peer in peers_by_name.items() if precision in peer.precisions}
        say(f"{precision}: do all loops compute the same?")
        few = Plan(_CHECKED, min(block, 5) if _CHECKED % min(block, 5) == 0 else 1, precision)
        result["agreement"][precision] = _fields(check_agreement(engine_blocks, work, few))
        for name in loops.keys() & peers_by_name.keys():
            result["peers"][name].setdefault("agreement", {})[precision] = _fields(distance(loops[name], work, few))
        say(f"{precision}: {', '.join(loops)}, {rounds} blocks of {block} steps each")
        times = _timed(loops, work, Plan(block, block, precision), rounds)
        _note(result, times, precision, block)
    return result | {
        "steps": rounds * block,
        "block": block,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _timed(loops: Mapping[str, Blocks], work: Work, plan: Plan, rounds: int) -> dict[str, Times]:
    def begin(loop: Blocks, blocks: int) -> Iterator[float]:
        return loop(work, replace(plan, steps=blocks * plan.block), work.student(), None)

    return interleave_starts({name: partial(begin, loop) for name, loop in loops.items()}, rounds=rounds)


def _note(result: dict[str, Any], times: Mapping[str, Times], precision: str, block: int) -> None:
    """Add one precision's figures to the result of `bench_loop`."""
    plain = times[_PLAIN]
    milliseconds = {name: 1000 * statistics.median(time.wall) / block for name, time in times.items()}
    result["milliseconds"][precision] = {name: round(value, 3) for name, value in milliseconds.items()}
    for name, time in times.items():
        if name == _PLAIN:
            continue
        into = result if name == _ENGINE else result["peers"][name]
        into[f"ratio_{precision}"] = round(ratio(time.wall, plain.wall), 4)
        into[f"quartiles_{precision}"] = [round(value, 4) for value in paired_quartiles(time.wall, plain.wall)]
        into[f"cpu_ratio_{precision}"] = round(ratio(time.cpu, plain.cpu), 4)


def _fields(apart: Apart) -> dict[str, float]:
    return {name: float(f"{value:.3g}") for name, value in apart._asdict().items()}


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """A block with this number of CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
