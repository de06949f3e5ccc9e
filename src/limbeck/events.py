"""Events of a job: what `limbeck.run_job`, `limbeck.tune` and `limbeck.compare.build` report to a callback."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Message:
    """A sentence for the user.

    Attributes:
        text: The sentence.
    """

    text: str


@dataclass(frozen=True)
class ImagesDecoded:
    """Some of the image files are decoded.

    Attributes:
        done: Number of decoded images.
        total: Number of images.
    """

    done: int
    total: int


@dataclass(frozen=True)
class EnsemblePlanned:
    """Training of an ensemble of teachers begins.

    Attributes:
        members: Number of members to train.
    """

    members: int


@dataclass(frozen=True)
class OutputsCached:
    """The teacher's outputs for some of the examples are in the cache.

    Attributes:
        done: Number of cached outputs.
        total: Number of outputs in total.
    """

    done: int
    total: int


@dataclass(frozen=True)
class StepsTaken:
    """A run has taken some optimizer steps since its last report.

    Attributes:
        run: Name of the run: ``teacher``, or ``distilled, seed 0``.
        part: The position of the running part in the recipe; empty where the recipe has one part.
        title: The name of the stage; empty where the recipe has one part, or for parallel branches.
        step: Optimizer steps so far.
        steps: Optimizer steps in total.
        rate: Examples per second.
        terms: The mean of each term of the loss.
        generation: Figures of the texts that a model wrote since the last report; empty without them.
    """

    run: str
    part: str
    title: str
    step: int
    steps: int
    rate: float
    terms: Mapping[str, float]
    generation: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ArmsPlanned:
    """Training of the arms begins.

    Attributes:
        runs: Number of runs: arms times seeds.
    """

    runs: int


@dataclass(frozen=True)
class ArmFinished:
    """One arm is trained and measured for one seed.

    Attributes:
        arm: The arm's name.
        seed: The seed.
        score: The primary metric of the task on test data: the accuracy of a classifier.
        text: Its name and value for people; empty for an accuracy.
    """

    arm: str
    seed: int
    score: float
    text: str = ""


@dataclass(frozen=True)
class TrialsPlanned:
    """A search begins.

    Attributes:
        trials: Number of trials of all arms.
    """

    trials: int


@dataclass(frozen=True)
class TrialFinished:
    """One trial of a search is trained and measured.

    Attributes:
        arm: The arm's name.
        number: The trial's number within its arm, from 0.
        score: The primary metric of the task on development data: the accuracy of a classifier.
        text: Its name and value for people; empty for an accuracy.
    """

    arm: str
    number: int
    score: float
    text: str = ""


Event = (
    Message
    | ImagesDecoded
    | EnsemblePlanned
    | OutputsCached
    | StepsTaken
    | ArmsPlanned
    | ArmFinished
    | TrialsPlanned
    | TrialFinished
)
"""Every event that a callback may receive."""


@runtime_checkable
class Callback(Protocol):
    """A function of one event, called in the process that started the job.

    Example:
        >>> def show(event):
        ...     if isinstance(event, ArmFinished):
        ...         print(f"{event.arm}, seed {event.seed}: {event.score:.0%}")
        >>> show(ArmFinished("distilled", seed=0, score=0.93))
        distilled, seed 0: 93%
    """

    def __call__(self, event: Event, /) -> None:
        """Handle one event."""


def ignore_events(event: Event) -> None:
    """The default callback, which does nothing."""
