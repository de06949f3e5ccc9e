"""Schedules: values that change during a stage."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from limbeck.batch import Progress
from limbeck.errors import LimbeckError, unknown_name_error


@dataclass(frozen=True)
class Schedule:
    """A value that depends on the progress of a stage: a weight of an objective, or a hyperparameter of a loss.

    Attributes:
        at: Function from `Progress` to the value.
        text: The schedule's text in reports.

    Example:
        >>> round(ramp(0.9)(Progress(step=5, steps=11)), 2)
        0.45
    """

    at: Callable[[Progress], float]
    text: str

    def __call__(self, progress: Progress) -> float:
        """The value at `progress`."""
        return self.at(progress)

    def __repr__(self) -> str:
        return self.text


def constant(value: float) -> Schedule:
    """A constant value."""
    return Schedule(lambda _: value, f"{value}")


def ramp(end: float, *, start: float = 0.0, until: float = 1.0) -> Schedule:
    """Linear from `start` to `end`, reached at the fraction `until` of the stage, then constant.

    Raises:
        LimbeckError: If `until` is not in (0, 1].
    """
    _fraction("until", until)
    return Schedule(
        lambda p: start + (end - start) * min(p.fraction / until, 1.0), f"ramp({end}, start={start}, until={until})"
    )


def cosine(end: float = 0.0, *, start: float = 1.0) -> Schedule:
    """Half a cosine wave from `start` at the first step to `end` at the last step.

    The cosine of `Optimizer` differs: it would reach its end one step after the last, so the last step still has a
    positive learning rate.
    """
    return Schedule(
        lambda p: end + (start - end) * 0.5 * (1 + math.cos(math.pi * p.fraction)), f"cosine({end}, start={start})"
    )


def sigmoid_ramp(end: float, *, until: float) -> Schedule:
    """The ramp-up ``end * exp(-5 (1 - x)^2)`` for x from 0 to 1 at the fraction `until`, then constant.

    Reference: Laine and Aila, Temporal Ensembling, 2016, arXiv:1610.02242; used by mean teacher (arXiv:1703.01780).

    Raises:
        LimbeckError: If `until` is not in (0, 1].
    """
    _fraction("until", until)
    return Schedule(
        lambda p: end * math.exp(-5.0 * (1.0 - min(p.fraction / until, 1.0)) ** 2),
        f"sigmoid_ramp({end}, until={until})",
    )


def steps(values: dict[float, float], *, start: float) -> Schedule:
    """`start`, then each value from its fraction of the stage onwards: ``steps({0.5: 0.1}, start=1.0)``.

    Raises:
        LimbeckError: If a fraction is not in [0, 1].
    """
    for fraction in values:
        if not 0.0 <= fraction <= 1.0:
            raise LimbeckError(f"The keys of steps() are fractions of the stage, from 0 to 1; got {fraction}.")
    rising = sorted(values.items())

    def at(progress: Progress) -> float:
        value = start
        for fraction, later in rising:
            value = later if progress.fraction >= fraction else value
        return value

    return Schedule(at, f"steps({values}, start={start})")


def read_schedule(text: str) -> Schedule:
    """Make a schedule from its text, as jobs and the command line write it: ``ramp(1.0, until=0.5)``.

    Args:
        text: A call of `constant`, `cosine`, `ramp`, `sigmoid_ramp` or `steps` with numbers, or a number.

    Raises:
        LimbeckError: If it is no such call, or an argument is wrong.

    Example:
        >>> read_schedule("ramp(1.0)")
        ramp(1.0, start=0.0, until=1.0)
    """
    example = "write for example ramp(1.0) or steps({0.5: 1.0}, start=0.0)"
    try:
        called = ast.parse(text.strip(), mode="eval").body
        if isinstance(called, ast.Constant):
            return constant(_read_number(called))
        if not isinstance(called, ast.Call) or not isinstance(called.func, ast.Name):
            raise ValueError("no call")
        name = called.func.id
        arguments = [_read_number(one) for one in called.args]
        by_name = {str(one.arg): _read_number(one.value) for one in called.keywords}
    except (SyntaxError, ValueError) as error:
        raise LimbeckError(f"{text!r} is no schedule; {example}.") from error
    if name not in _SCHEDULES:
        raise unknown_name_error("schedule", name, _SCHEDULES)
    try:
        made = _SCHEDULES[name](*arguments, **by_name)
        made(Progress())
    except (TypeError, AttributeError) as error:
        raise LimbeckError(f"{text!r} does not fit: {error}; {example}.") from error
    return made


def _read_number(node: ast.expr) -> Any:
    """A number, or the numbers by fraction of `steps`, as floats."""
    value = ast.literal_eval(node)
    if isinstance(value, dict):
        return {float(key): float(one) for key, one in value.items()}
    return float(value)


_SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant, "cosine": cosine, "ramp": ramp, "sigmoid_ramp": sigmoid_ramp, "steps": steps
}  # fmt: skip


def _fraction(name: str, value: float) -> None:
    if not 0.0 < value <= 1.0:
        raise LimbeckError(f"{name} must be a fraction of the stage, above 0 and at most 1; got {value}.")
