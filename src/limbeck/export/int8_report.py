"""The report of a quantization to 8 bits: size, speed, accuracy."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from limbeck.batch import Batch, Inputs, input_rows
from limbeck.export.int8 import TRAINED, QuantizationChoice, QuantizationTrial
from limbeck.export.onnx_session import input_feed
from limbeck.metrics.cost import BATCHES
from limbeck.tasks import Classification, Score

_WARM_UP = 3

_FEWEST, _MOST, _ENOUGH = 15, 300, 1.5

"""The smallest and largest number of rounds, and the seconds after which no more are started."""


class LatencyPair(NamedTuple):
    """Milliseconds for a batch on one thread: the median processor time of all passes.

    Processor time, because wall time on a busy machine is longer for whichever file is interrupted more often.

    Attributes:
        float32: The time of the float32 file.
        int8: The time of the 8-bit file.
    """

    float32: float
    int8: float

    @property
    def ratio(self) -> float | None:
        """The time of the 8-bit file divided by that of the float32 file: below 1, 8 bits are faster.

        None if a time is 0, because passes are shorter than the tick of the clock.
        """
        return self.int8 / self.float32 if self.int8 > 0 and self.float32 > 0 else None

    def to_dict(self) -> dict[str, float | None]:
        """Return plain values, for JSON."""
        ratio = None if self.ratio is None else round(self.ratio, 4)
        return {"float32": round(self.float32, 6), "int8": round(self.int8, 6), "ratio": ratio}

    def describe_difference(self) -> str:
        """Return the time of the float32 file in words, with the ratio if there is one."""
        full = _ms(self.float32)
        return f"{full} in float32" if self.ratio is None else f"{self.ratio:.2f} times the {full} of float32"


def benchmark_pair(
    full: Any, small: Any, inputs: Inputs, *, batches: Sequence[int] = BATCHES
) -> dict[int, LatencyPair]:
    """Measure two sessions of one thread by batch size. Their passes alternate, so that other load affects both.

    Rows of the inputs are repeated or left out to fill each batch.
    """
    have = Batch(inputs).size
    return {size: _benchmark(full, small, input_rows(inputs, torch.arange(size) % have)) for size in batches}


def _benchmark(full: Any, small: Any, inputs: Inputs) -> LatencyPair:
    calls = [_call(session, inputs) for session in (full, small)]
    for call in calls * _WARM_UP:
        call()
    began, times = time.perf_counter(), (list[float](), list[float]())
    while len(times[0]) < _FEWEST or (len(times[0]) < _MOST and time.perf_counter() - began < _ENOUGH):
        # The order alternates, so that neither file is always the first of a pair.
        for which in (0, 1) if len(times[0]) % 2 else (1, 0):
            times[which].append(_seconds(calls[which]))
    return LatencyPair(*(1e3 * statistics.median(one) for one in times))


def _call(session: Any, inputs: Inputs) -> Callable[[], Any]:
    feed = input_feed(session, inputs)
    return lambda: session.run(None, feed)


def _seconds(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


_SMALLER = 2.0

_WORSE = 0.01

_SLOWER = 1.05

"""Ratios below this are noise on a busy machine."""


class QuantizationReport(NamedTuple):
    """A student in 8 bits compared with its float32 file.

    Attributes:
        full: The size of the float32 file in bytes.
        choice: The quantizations that were tried, and the one that was chosen.
        latency: The times of both files on one CPU thread, by batch size.
    """

    full: int
    choice: QuantizationChoice
    latency: Mapping[int, LatencyPair]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        times = {f"batch_{size}": one.to_dict() for size, one in self.latency.items()}
        return {**self.choice.to_dict(), "float32_bytes": self.full, "milliseconds": times}

    def lines(self) -> Iterator[str]:
        """Yield the sentences of the model card."""
        choice = self.choice
        if choice.best == TRAINED:
            yield "Scales: those of the student, which was trained with rounded weights and inputs."
        else:
            yield (
                f"Calibration: {choice.best}, on {choice.calibrated_on:,} training examples; weights per channel. "
                f"{_why(choice)}"
            )
        if len(choice.tried) > 1:
            yield f"Tried: {'; '.join(_describe_trial(trial, choice.distance_title) for trial in choice.tried)}."
        times = (f"{_ms(one.int8)} for {_batch(size)} ({one.describe_difference()})"
                 for size, one in self.latency.items())  # fmt: skip
        yield f"Median time on one CPU thread of the machine that exported it: {', '.join(times)}."

    def notes(
        self, *, size: int, before: float, after: float, examples: int, score: Score = Classification.primary
    ) -> Iterator[str]:
        """Yield a sentence for each disadvantage of the 8-bit file.

        Args:
            size: The size of the 8-bit file in bytes.
            before: The primary metric in float32.
            after: The same in 8 bits.
            examples: The number of test examples.
            score: The primary metric of the task.
        """
        if self.full < _SMALLER * size:
            yield (
                f"In 8 bits this student has {size:,} bytes instead of {self.full:,}, less than {_SMALLER:.0f} times "
                "smaller: the file of so small a network is mostly its graph, not its weights."
            )
        if (lost := score.gain(before, after)) > _WORSE:
            cost, most = (score.format_difference(one).lstrip("+") for one in (lost, _WORSE))
            yield (
                f"8 bits cost {cost} of {score.title} on {examples:,} test examples, which is more than {most}; "
                "the float32 file (--to onnx) is better."
            )
        slow = [
            f"{one.ratio:.2f} times as long for {_batch(number)} ({_ms(one.int8)}, {_ms(one.float32)} in float32)"
            for number, one in self.latency.items() if one.ratio is not None and one.ratio > _SLOWER
        ]  # fmt: skip
        if slow:
            yield f"On this machine 8 bits are slower: {' and '.join(slow)}."


def _why(choice: QuantizationChoice) -> str:
    examples, ways = f"{choice.judged_on:,} development examples", sum(one.failed is None for one in choice.tried)
    by = f"{choice.distance_title} from float32"
    by = by if choice.best.accuracy is None else f"accuracy; among equals, {by}"
    return f"Best of {ways} on {examples} by {by}." if ways > 1 else f"The only one that worked, on {examples}."


def _describe_trial(trial: QuantizationTrial, title: str) -> str:
    if trial.failed is not None:
        return f"{trial}: failed ({trial.failed.rstrip('.')})"
    right = "" if trial.accuracy is None else f"{100 * trial.accuracy:.2f} %, "
    if title != "KL divergence":
        return f"{trial}: {right}{title} {'not finite' if trial.kl is None else f'{trial.kl:.2g}'}"
    return f"{trial}: {right}KL {'not finite' if trial.kl is None else f'{trial.kl:.2g} nats'}"


def _batch(size: int) -> str:
    return "one example" if size == 1 else f"{size:,} examples"


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.3g} ms"
