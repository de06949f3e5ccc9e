"""Experiments of a paper: tasks and rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from limbeck.errors import LimbeckError

Figures = Mapping[str, Any]
"""What a task found: name -> number, or anything else that JSON holds."""
RESULT = "result.json"


class ExperimentScale(NamedTuple):
    """How big an experiment is.

    Attributes:
        name: ``quick`` or ``full``.
        seeds: The seeds that every arm is run with.
    """

    name: str
    seeds: tuple[int, ...]

    @property
    def quick(self) -> bool:
        """Whether it is to take about a minute, and its numbers mean little."""
        return self.name == "quick"

    def pick(self, quick: int, full: int) -> int:
        """One number for a quick run, another for a full one."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Row:
    """One line of the table: the paper's number beside ours.

    Attributes:
        name: What is measured.
        values: Ours, one number a seed.
        unit: What it is counted in: ``errors``, ``%``, ``points``, ``ms``.
        paper: The paper's number; None where our data differ from the paper's.
        lower_is_better: Which way is up.
        aim: What ours is to reach, in the mean; None where it is only reported.
        note: What a reader must know besides.
    """

    name: str
    values: Sequence[float | int]
    unit: str
    paper: float | int | None = None
    lower_is_better: bool = True
    aim: float | int | None = None
    note: str = ""

    @property
    def mean(self) -> float:
        """Ours, over seeds."""
        return fmean(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the mean reaches the aim; None where there is none."""
        if self.aim is None:
            return None
        return self.mean <= self.aim if self.lower_is_better else self.mean >= self.aim

    def as_json(self) -> dict[str, Any]:
        """The row as ``--json`` shows it."""
        return {
            "name": self.name,
            "paper": self.paper,
            "ours": {"mean": self.mean, "values": list(self.values)},
            "unit": self.unit,
            "lower_is_better": self.lower_is_better,
            "aim": self.aim,
            "met": self.met,
            "note": self.note,
        }


class TaskFolder:
    """Where one task works: its own folder, and those of the tasks that it needs.

    Args:
        root: The folder of the whole reproduction.
        task: The task's name, which is also its folder under `root`.
    """

    def __init__(self, root: Path, task: str) -> None:
        self.folder = root / task
        self._root = root

    def of(self, task: str) -> Path:
        """The folder of another task that is done."""
        return self._root / task


@dataclass(frozen=True)
class Task:
    """A piece of work that is done once, in a process of one thread.

    Attributes:
        name: Unique, and a path: ``mnist/teacher/seed-0``. Two experiments that need the same task share it.
        work: What to do, given a `TaskFolder`; it can be pickled (a function of a module, or a partial of one), and it
            keeps what others need in its folder.
        requires: Names of tasks that must be done before.
        seconds: About how long it takes on the machine that `limbeck.papers.machine_speed` was written on.
    """

    name: str
    work: Callable[[TaskFolder], Figures]
    requires: tuple[str, ...] = ()
    seconds: float | int = 1.0


@dataclass(frozen=True)
class Experiment:
    """An experiment of a paper.

    Attributes:
        name: What ``--only`` calls it.
        title: What it asks, in a line.
        tasks: Scale -> what is to be done.
        rows: Scale and the figures of all its tasks by name -> its rows of the table.
    """

    name: str
    title: str
    tasks: Callable[[ExperimentScale], Sequence[Task]]
    rows: Callable[[ExperimentScale, Mapping[str, Figures]], Sequence[Row]]


def merged(tasks: Sequence[Task]) -> dict[str, Task]:
    """The tasks by name, each once, those that are needed first.

    Raises:
        LimbeckError: If a task needs one that there is not, or tasks need each other in a circle.
    """
    by_name = {task.name: task for task in tasks}
    done: dict[str, Task] = {}

    def add(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise LimbeckError(f"The tasks {' -> '.join((*above, name))} need each other.")
        if name not in by_name:
            raise LimbeckError(f"The task {above[-1]!r} needs {name!r}, which is no task.")
        for need in by_name[name].requires:
            if need not in done:
                add(need, (*above, name))
        done[name] = by_name[name]

    for name in by_name:
        if name not in done:
            add(name, ())
    return done
