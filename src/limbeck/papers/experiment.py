"""Experiments of a paper: tasks and rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from limbeck.errors import LimbeckError

Figures = Mapping[str, Any]
"""The results of a task by name: numbers, or other JSON values."""
RESULT = "result.json"


class ExperimentScale(NamedTuple):
    """The scale of an experiment.

    Attributes:
        name: ``quick`` or ``full``.
        seeds: The seeds of every arm.
    """

    name: str
    seeds: tuple[int, ...]

    @property
    def quick(self) -> bool:
        """Whether the run is a short test whose numbers are not meaningful."""
        return self.name == "quick"

    def pick(self, quick: int, full: int) -> int:
        """Choose a number for a quick or a full run."""
        return quick if self.quick else full


@dataclass(frozen=True)
class Row:
    """One row of the table, with the paper's number and ours.

    Attributes:
        name: The name of the quantity.
        values: Our numbers, one per seed.
        unit: The unit: ``errors``, ``%``, ``points``, ``ms``.
        paper: The number of the paper; None if our data differ.
        lower_is_better: Whether smaller numbers are better.
        aim: The value that our mean should reach; None for rows without an aim.
        note: A remark for the reader.
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
        """Our mean over seeds."""
        return fmean(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the mean reaches the aim; None without an aim."""
        if self.aim is None:
            return None
        return self.mean <= self.aim if self.lower_is_better else self.mean >= self.aim

    def as_json(self) -> dict[str, Any]:
        """Convert the row to the format of ``--json``."""
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
    """The folder of a task, and those of the tasks that it needs.

    Args:
        root: The folder of the reproduction.
        task: The name of the task, which is also its folder under `root`.
    """

    def __init__(self, root: Path, task: str) -> None:
        self.folder = root / task
        self._root = root

    def of(self, task: str) -> Path:
        """Return the folder of another finished task."""
        return self._root / task


@dataclass(frozen=True)
class Task:
    """A unit of work that runs once, in a process of one thread.

    Attributes:
        name: A unique name that is a path, such as ``mnist/teacher/seed-0``. Experiments can share a task.
        work: A function of a `TaskFolder` that can be pickled (a module function or a partial of one). It saves what
            other tasks need in its folder.
        requires: The names of tasks that must finish first.
        seconds: The estimated time on the reference machine of `limbeck.papers.machine_speed`.
    """

    name: str
    work: Callable[[TaskFolder], Figures]
    requires: tuple[str, ...] = ()
    seconds: float | int = 1.0


@dataclass(frozen=True)
class Experiment:
    """An experiment of a paper.

    Attributes:
        name: The name for ``--only``.
        title: The question of the experiment, in one line.
        tasks: Maps a scale to the tasks.
        rows: Maps the scale and the results of all tasks to the rows of the table.
    """

    name: str
    title: str
    tasks: Callable[[ExperimentScale], Sequence[Task]]
    rows: Callable[[ExperimentScale, Mapping[str, Figures]], Sequence[Row]]


def merged(tasks: Sequence[Task]) -> dict[str, Task]:
    """Merge tasks by name, in an order in which required tasks come first.

    Raises:
        LimbeckError: If a required task does not exist, or tasks need each other in a cycle.
    """
    by_name = {task.name: task for task in tasks}
    done: dict[str, Task] = {}

    def add(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise LimbeckError(f"The tasks {' -> '.join((*above, name))} need each other.")
        if name not in by_name:
            raise LimbeckError(f"The task {above[-1]!r} needs {name!r}, which is not a task.")
        for need in by_name[name].requires:
            if need not in done:
                add(need, (*above, name))
        done[name] = by_name[name]

    for name in by_name:
        if name not in done:
            add(name, ())
    return done
