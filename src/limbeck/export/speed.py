"""How long does an 8-bit file take to answer, beside the float32 file that it was made of?"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from limbeck.export.session import fed
from limbeck.measure.cost_in_full import BATCHES
from limbeck.signal import Batch, Inputs, input_rows

_WARM_UP = 3
_FEWEST, _MOST, _ENOUGH = 15, 300, 1.5
"""Rounds at least and at most, and seconds after which they are enough."""


class Beside(NamedTuple):
    """Milliseconds until a whole batch is answered on one thread: the median over passes, of processor time.

    That is what the clock says where nothing else runs; by the clock, the slower file would lose its turn more often.

    Attributes:
        float32: Of the float32 file.
        int8: Of the 8-bit one.
    """

    float32: float
    int8: float

    @property
    def ratio(self) -> float:
        """The 8-bit file's time over the other's: below 1 it is faster."""
        return self.int8 / self.float32

    def to_dict(self) -> dict[str, float]:
        """As plain values, for JSON."""
        return {"float32": round(self.float32, 6), "int8": round(self.int8, 6), "ratio": round(self.ratio, 4)}


def side_by_side(full: Any, small: Any, inputs: Inputs, *, batches: Sequence[int] = BATCHES) -> dict[int, Beside]:
    """The times of two sessions by batch size, pass by pass in turn, so that what the machine does falls on both.

    Args:
        full: The float32 file's session, of one thread.
        small: The 8-bit file's, too.
        inputs: Real examples; their rows are repeated or left out to make each batch.
        batches: Its sizes.
    """
    have = Batch(inputs).size
    return {size: _beside(full, small, input_rows(inputs, torch.arange(size) % have)) for size in batches}


def _beside(full: Any, small: Any, inputs: Inputs) -> Beside:
    calls = [_call(session, inputs) for session in (full, small)]
    for call in calls * _WARM_UP:
        call()
    began, times = time.perf_counter(), (list[float](), list[float]())
    while len(times[0]) < _FEWEST or (len(times[0]) < _MOST and time.perf_counter() - began < _ENOUGH):
        for which in (0, 1) if len(times[0]) % 2 else (1, 0):
            times[which].append(_seconds(calls[which]))
    return Beside(*(1e3 * statistics.median(one) for one in times))


def _call(session: Any, inputs: Inputs) -> Callable[[], Any]:
    feed = fed(session, inputs)
    return lambda: session.run(None, feed)


def _seconds(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start
