"""Experiments of a paper: scales, rows of the table, folders of tasks, and subsets of data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from limbeck.data import ArrayDataset, Dataset, DataSplits, subsample
from limbeck.papers.claim import ClaimResult
from limbeck.task_runner import WorkItem

Figures = Mapping[str, Any]
"""The results of a task by name: numbers, or other JSON values."""
RESULT = "result.json"
_WEIGHTS = "weights.safetensors"


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
        column: The quantity, for rows of one name that stand side by side in a table with a column for each quantity.
    """

    name: str
    values: Sequence[float | int]
    unit: str
    paper: float | int | None = None
    lower_is_better: bool = True
    aim: float | int | None = None
    note: str = ""
    column: str = ""

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
            "column": self.column,
        }


class TaskFolder:
    """The folder of a task, and those of the tasks that it needs."""

    def __init__(self, root: Path, task: str) -> None:
        self.folder = root / task
        self._root = root

    def of(self, task: str) -> Path:
        """Return the folder of another finished task."""
        return self._root / task

    def figures_of(self, task: str) -> Figures:
        """Read the results of another finished task."""
        figures: Figures = json.loads((self.of(task) / RESULT).read_text(encoding="utf-8"))["figures"]
        return figures


@dataclass(frozen=True)
class Experiment:
    """An experiment of a paper.

    Attributes:
        name: The name for ``--only``.
        title: The question of the experiment, in one line.
        tasks: Maps a scale to the tasks. The function of a task takes a `TaskFolder`, saves there what other tasks
            need, and returns `Figures`. The name of a task is its folder, such as ``mnist/teacher/seed-0``; its seconds
            are those on the reference machine. Experiments can share a task.
        rows: Maps the scale and the results of all tasks to the rows of the table.
        skip: Maps the scale to the reason why this machine does not run the experiment; empty if it does.
        claims: Maps the scale and the results to the paper's claims with their words; None if it has no claims.
        describe: Maps the scale to a sentence about data, networks and training, for the table and the page of results.
    """

    name: str
    title: str
    tasks: Callable[[ExperimentScale], Sequence[WorkItem]]
    rows: Callable[[ExperimentScale, Mapping[str, Figures]], Sequence[Row]]
    skip: Callable[[ExperimentScale], str] = lambda _: ""
    claims: Callable[[ExperimentScale, Mapping[str, Figures]], Sequence[ClaimResult]] | None = None
    describe: Callable[[ExperimentScale], str] = lambda _: ""


def save_weights(net: nn.Module, folder: TaskFolder) -> None:
    """Save a network for tasks that require this one."""
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, folder.folder / _WEIGHTS)


def load_weights(net: nn.Module, folder: TaskFolder, task: str) -> nn.Module:
    """Load the weights that another task saved into a network, and set it to evaluation."""
    net.load_state_dict(load_file(folder.of(task) / _WEIGHTS))
    return net.eval()


def fewer(data: DataSplits, *, train: int, test: int) -> DataSplits:
    """Take a fixed subset of a data set, in memory and numbered from 0."""
    first, second = renumbered(subsample(data.train, train, seed=0)), renumbered(subsample(data.test, test, seed=0))
    return DataSplits(data.name, first, second, data.preprocess, data.class_names)


def renumbered(part: Dataset) -> ArrayDataset:
    """Copy some examples of a data set into memory, numbered from 0."""
    batch = part.take(torch.arange(len(part)))
    return ArrayDataset(batch.inputs, batch.labels, class_names=part.class_names)
