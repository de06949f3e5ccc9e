"""Tables of papers with our numbers."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from limbeck.atomic_io import make_folder, write_text
from limbeck.errors import LimbeckError, unknown_name_error
from limbeck.papers.experiment import Experiment, ExperimentScale, Figures, Row
from limbeck.papers.task_queue import Callback, TaskQueue, machine_slowness
from limbeck.task_runner import sort_tasks

PAPERS = ("hinton2015", "beyer2021", "gkd", "o1journey", "fdd", "tail")
"""Modules in this folder with EXPERIMENTS and a TITLE, and perhaps numbers of SEEDS of their own."""
_SEEDS = {"quick": 1, "full": 3}


@dataclass(frozen=True)
class Paper:
    """The experiments of a paper.

    Attributes:
        name: The name on the command line.
        title: Authors, title and year.
        experiments: The experiments by name, in the order of the paper.
        seeds: The number of seeds at each scale.
    """

    name: str
    title: str
    experiments: Mapping[str, Experiment]
    seeds: Mapping[str, int]


def paper(name: str) -> Paper:
    """Find a paper by name.

    Raises:
        UnknownNameError: If there is no such paper.
    """
    if name not in PAPERS:
        raise unknown_name_error("paper", name, PAPERS)
    module = import_module(f"limbeck.papers.{name}")
    experiments = {experiment.name: experiment for experiment in module.EXPERIMENTS}
    return Paper(name, module.TITLE, experiments, vars(module).get("SEEDS", _SEEDS))


class Reproduction:
    """Runs the experiments of a paper on this machine.

    Args:
        name: The name of the paper.
        only: Names of experiments; by default all.
        scale: ``quick`` takes about a minute per experiment and tests that it works; ``full`` has meaningful numbers.
        seeds: The number of seeds; by default one for ``quick``, and for ``full`` three or the paper's own number.
        out: The output folder. Finished tasks in it are not repeated.
        workers: The number of parallel tasks, each with one thread; by default one per core.

    Raises:
        UnknownNameError: If paper, experiment or scale is unknown.
        LimbeckError: If the folder has results of another scale, or a number is out of range.
    """

    def __init__(
        self,
        name: str,
        *,
        only: Sequence[str] = (),
        scale: str = "quick",
        seeds: int | None = None,
        out: str | os.PathLike[str] | None = None,
        workers: int | None = None,
    ) -> None:
        self.paper = paper(name)
        for experiment_name in only:
            if experiment_name not in self.paper.experiments:
                raise unknown_name_error("experiment", experiment_name, self.paper.experiments)
        if scale not in _SEEDS:
            raise unknown_name_error("scale", scale, list(_SEEDS))
        count = self.paper.seeds[scale] if seeds is None else seeds
        cores = (os.cpu_count() or 1) if workers is None else workers
        if count < 1 or cores < 1:
            raise LimbeckError(f"seeds and workers must be at least 1; got seeds={count}, workers={cores}.")
        self.scale = ExperimentScale(scale, tuple(range(count)))
        chosen = {n: e for n, e in self.paper.experiments.items() if not only or n in only}
        self.skipped = {n: reason for n, e in chosen.items() if (reason := e.skip(self.scale))}
        self.experiments = {n: e for n, e in chosen.items() if n not in self.skipped}
        self.folder = Path(out) if out is not None else Path("runs") / name / scale
        self.tasks = sort_tasks(
            [task for experiment in self.experiments.values() for task in experiment.tasks(self.scale)]
        )
        _check_folder(self.folder, scale)
        workers = max(min(cores, len(self.tasks)), 1)
        self._queue = TaskQueue(self.folder, workers=workers, slowness=machine_slowness)

    @property
    def seconds(self) -> float:
        """Estimate the remaining time on this machine."""
        return self._queue.estimate(self.tasks)

    def run(self, callback: Callback = lambda _: None) -> dict[str, Any]:
        """Run the remaining tasks and make the table.

        Returns:
            ``{"paper", "scale", "experiments": {name: {"title", "rows": [...]}}, "skipped": {name: reason}}``,
            with rows from `Row.as_json`.
        """
        results = self._queue.run(self.tasks, callback)
        rows = {
            name: {"title": experiment.title, "rows": [row.as_json() for row in _rows(experiment, self.scale, results)]}
            for name, experiment in self.experiments.items()
        }
        table = {"paper": self.paper.name, "scale": self.scale.name, "experiments": rows}
        return table | {"skipped": self.skipped}


def _rows(experiment: Experiment, scale: ExperimentScale, results: Mapping[str, Figures]) -> Sequence[Row]:
    rows = experiment.rows(scale, results)
    # At quick scale the numbers show only that the code works, so they have no aim.
    return [replace(row, aim=None) for row in rows] if scale.quick else rows


def _check_folder(folder: Path, scale: str) -> None:
    """Check that the folder has the same scale, because tasks have the same names at both scales."""
    file = folder / "reproduction.json"
    if file.is_file():
        try:
            before = json.loads(file.read_text(encoding="utf-8"))["scale"]
        except (ValueError, TypeError, KeyError) as error:
            raise LimbeckError(
                f"{file} is damaged, so the scale of its results is unknown. Use "
                f"""another --out; or, if known, write {{"scale": "quick"}} or {{"scale": "full"}} into it."""
            ) from error
        if before != scale:
            raise LimbeckError(
                f"{folder} holds results at scale {before!r}, not {scale!r}; give another folder: --out."
            )
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise LimbeckError(f"{folder} is not empty and holds no reproduction; give another folder: --out.")
    make_folder(folder)
    write_text(json.dumps({"scale": scale}), file)
