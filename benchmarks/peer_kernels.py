"""Benchmark of kernels beside the same losses of other toolkits: time and its spread, forward and backward."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.interleave import paired_quartiles, paired_ratio
from benchmarks.kernels import time_in_turn
from benchmarks.peer_losses import PEER_LOSSES, PeerLoss

TIME_BAR = 1.0
"""Our time over theirs; met if the first quartile of rounds is at most that."""


def bench_peer_kernels(
    *,
    losses: Mapping[str, PeerLoss] = PEER_LOSSES,
    small: bool = False,
    rounds: int = 40,
    seconds: float = 1.0,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Compare the processor time of losses with those of other toolkits, on one thread, in turn.

    Args:
        losses: The comparisons.
        small: Whether to use the shapes of the tests.
        rounds: Maximum number of rounds.
        seconds: Seconds of processor time after which a comparison ends, with at least two rounds.
        say: Gets messages about the progress.

    Returns:
        ``peers``: a row for each loss of an installed toolkit, with ``time`` (limbeck's over theirs, the median of
        rounds), ``quartiles`` of that ratio, ``bar`` and ``rounds``. And ``absent``: why a toolkit could not be
        imported, by its name.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    rows, absent = [], {}
    try:
        for name, loss in losses.items():
            if loss.package in absent:
                continue
            try:
                theirs = loss.load()
            except ImportError as error:
                absent[loss.package] = f"does not import ({error}); pip install -e '.[peers]'"
                continue
            say(f"other toolkits: {name}")
            rows.append(_measured(name, loss, theirs, loss.small if small else loss.shape, rounds, seconds))
        return {"peers": rows, "absent": absent}
    finally:
        torch.set_num_threads(before)


def _measured(
    name: str, loss: PeerLoss, theirs: Callable[..., Tensor], shape: tuple[int, ...], rounds: int, seconds: float
) -> dict[str, Any]:
    arguments = loss.draw(shape)

    def step(value: Callable[..., Tensor]) -> None:
        arguments[0].grad = None
        value(*arguments).backward()

    steps = {"ours": functools.partial(step, loss.ours), "theirs": functools.partial(step, theirs)}
    times = time_in_turn(steps, arguments[0].numel(), rounds, seconds)
    return {
        "loss": name,
        "shape": list(shape),
        "time": round(paired_ratio(times["ours"], times["theirs"]), 3),
        "quartiles": [round(one, 3) for one in paired_quartiles(times["ours"], times["theirs"])],
        "bar": TIME_BAR,
        "rounds": len(times["ours"]),
    }
