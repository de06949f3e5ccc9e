"""Simulation of verdicts: how often intervals hold the true difference, and how often useless methods "help"."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from limbeck.compare import Outcome
from limbeck.compare.result import verdict_of
from limbeck.errors import LimbeckError
from limbeck.job import make_job
from limbeck.metrics import compare_scores


@dataclass(frozen=True)
class Arms:
    """The true difference of two arms.

    Attributes:
        better: The fraction of examples that only the first arm classifies correctly, with every seed.
        worse: The fraction that only the other arm classifies correctly.
        moving: The fraction on which every student is right or wrong at random.
        noise: The standard deviation of the accuracy between seeds.
    """

    better: float = 0.0
    worse: float = 0.0
    moving: float = 0.0
    noise: float = 0.0

    def draw(self, draw: np.random.Generator, *, seeds: int, examples: int) -> np.ndarray:
        """Right or wrong, ``[2, seeds, examples]``, on a new test set with new seeds."""
        kind, right = draw.random(examples), np.zeros((2, seeds, examples), dtype=bool)
        right[0, :, kind < self.better] = True
        right[1, :, (kind >= self.better) & (kind < self.better + self.worse)] = True
        moving = (kind >= self.better + self.worse) & (kind < self.better + self.worse + self.moving)
        luck = draw.normal(0, self.noise, (2, seeds, 1)) / self.moving if self.moving else np.zeros((2, seeds, 1))
        right[:, :, moving] = draw.random((2, seeds, int(moving.sum()))) < np.clip(0.5 + luck, 0, 1)
        return right


ARMS: Mapping[str, Arms] = {
    "alike": Arms(),
    "one wins 1 % of examples": Arms(better=0.01),
    "few differ": Arms(better=0.004, worse=0.002),
    "many differ": Arms(better=0.1, worse=0.05, moving=0.2, noise=0.002),
    "students err by chance": Arms(moving=0.2, noise=0.003),
    "large seed noise": Arms(better=0.01, moving=0.3, noise=0.03),
}


@dataclass(frozen=True)
class CoverageScale:
    """The sizes of the simulation.

    Attributes:
        simulations: Number of simulations for each row of both tables.
        examples: Sizes of the test set.
        seeds: Numbers of seeds.
        methods: Numbers of methods.
        development: Sizes of the development set.
    """

    simulations: int = 1000
    examples: Sequence[int] = (300, 1000, 10_000)
    seeds: Sequence[int] = (3, 5, 20)
    methods: Sequence[int] = (1, 2, 5, 10)
    development: Sequence[int] = (500, 6000, 1_000_000)

    def __post_init__(self) -> None:
        least = min(self.simulations, *self.seeds, *self.methods, *self.development, *self.examples)
        if least < 1 or min(self.seeds) < 2:
            raise LimbeckError(f"A coverage bench draws at least once, with 2 seeds or more; got {self}.")


def bench_coverage(
    *, scale: CoverageScale | None = None, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Simulate test sets and seeds, and count how often the verdicts are true.

    Args:
        scale: The sizes.
        say: Gets messages about the progress.

    Returns:
        ``coverage``: a row for each pair of arms, size of the test set and number of seeds, with the fraction of
        intervals that hold the true difference, and half their mean width in points. ``false_alarms``: a row for each
        number of useless methods and each size of the development set for the choice of the best, with the fraction of
        verdicts that distillation helped. ``least_coverage``, ``most_false_alarms``: the worst of each.
    """
    size = scale or CoverageScale()
    coverage: list[dict[str, Any]] = []
    alarms: list[dict[str, Any]] = []
    for number, name in enumerate(ARMS):
        say(f"intervals of arms of which: {name}")
        coverage += [
            {"arms": name, "examples": examples, "seeds": seeds, **_covered(number, examples, seeds, size.simulations)}
            for examples in size.examples for seeds in size.seeds
        ]  # fmt: skip
    for methods in size.methods:
        say(f"the best of {methods} methods that do nothing")
        alarms += [
            {"methods": methods, "development": development, "helped": _helped(methods, development, size.simulations)}
            for development in size.development
        ]
    return {
        "least_coverage": min(row["covered"] for row in coverage),
        "most_false_alarms": max(row["helped"] for row in alarms),
        "simulations": size.simulations,
        "coverage": coverage,
        "false_alarms": alarms,
    }


def _covered(number: int, examples: int, seeds: int, simulations: int) -> dict[str, Any]:
    """One row; near the bar it gets more simulations, so that chance explains little of the difference."""
    arms, draw = list(ARMS.values())[number], np.random.default_rng([number, examples, seeds])
    covered, width, drawn = 0, 0.0, 0
    for more in (simulations, 4 * simulations):
        for _ in range(more):
            interval = compare_scores(*arms.draw(draw, seeds=seeds, examples=examples), largest=1.0)
            low, high = interval.low or 0.0, interval.high or 0.0
            covered += low <= arms.better - arms.worse <= high
            width += high - low
        drawn += more
        if covered >= _NEAR * drawn:
            break
    return {"covered": round(covered / drawn, 4), "half_width": round(50 * width / drawn, 3), "simulations": drawn}


_NEAR = 0.945
_TESTED, _SEEDS, _LUCK = 1000, 5, 0.01


def _helped(methods: int, development: int, simulations: int) -> float:
    """How often the verdict on the best of several useless methods is that it helps, if seeds differ by one point."""
    job = make_job({
        "data": "digits", "teacher": {"model": "mlp"}, "student": {"model": "mlp"}, "seeds": _SEEDS,
        "arms": ["student alone", "distilled"],
        "methods": [{"name": "hinton", "temperature": 1.0 + number} for number in range(methods)],
    })  # fmt: skip
    draw = np.random.default_rng([methods, development])
    return round(sum(bool(_verdict(job, draw, development)["helps"]) for _ in range(simulations)) / simulations, 4)


def _verdict(job: Any, draw: np.random.Generator, development: int) -> dict[str, Any]:
    sure = draw.random(_TESTED) < 0.9  # right for every student
    outcomes = []
    for arm in ("student alone", *job.method_arms):
        for seed, luck in enumerate(draw.normal(0, _LUCK, _SEEDS)):
            right = np.where(sure, True, draw.random(_TESTED) < np.clip(0.5 + 10 * luck, 0, 1))
            development_accuracy = draw.binomial(development, np.clip(0.95 + luck, 0, 1)) / development
            outcomes.append(Outcome(arm, seed, {"accuracy": float(right.mean())}, development_accuracy, scores=right))
    return verdict_of(job, outcomes, examples=_TESTED)
