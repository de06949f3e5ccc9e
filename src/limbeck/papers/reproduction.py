"""A paper's table beside its own numbers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from limbeck.errors import LimbeckError, unknown_name_error
from limbeck.papers.experiment import Experiment, ExperimentScale, Figures, Row, Task, merged
from limbeck.papers.machine_speed import slowness
from limbeck.papers.scheduler import Event, Scheduler

PAPERS = ("hinton2015", "beyer2021")
"""Each is a package of this folder with EXPERIMENTS and a TITLE."""
_SEEDS = {"quick": 1, "full": 3}


@dataclass(frozen=True)
class Paper:
    """A paper's experiments.

    Attributes:
        name: As it is called on the command line.
        title: What it is called, by whom, and when.
        experiments: By name, in the paper's order.
    """

    name: str
    title: str
    experiments: Mapping[str, Experiment]


def paper(name: str) -> Paper:
    """One paper by name.

    Raises:
        UnknownNameError: If there is none of that name.
    """
    if name not in PAPERS:
        raise unknown_name_error("paper", name, PAPERS)
    module = import_module(f"limbeck.papers.{name}")
    return Paper(name, module.TITLE, {experiment.name: experiment for experiment in module.EXPERIMENTS})


class Reproduction:
    """A paper's experiments on this machine.

    Args:
        name: The paper's.
        only: Names of experiments; all of them by default.
        scale: ``quick``, about a minute each, to see that all works; or ``full``, whose numbers mean something.
        seeds: How many seeds; one at ``quick`` and three at ``full`` by default.
        out: The folder; what is done there already is not done again.
        workers: How many tasks run at a time, in one thread each; one for each core by default.

    Raises:
        UnknownNameError: If paper, experiment or scale is unknown.
        LimbeckError: If the folder holds another scale's results, or a number makes no sense.
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
        count = _SEEDS[scale] if seeds is None else seeds
        cores = (os.cpu_count() or 1) if workers is None else workers
        if count < 1 or cores < 1:
            raise LimbeckError(f"seeds and workers must be at least 1; got seeds={count}, workers={cores}.")
        self.scale = ExperimentScale(scale, tuple(range(count)))
        self.experiments = {n: e for n, e in self.paper.experiments.items() if not only or n in only}
        self.folder = Path(out) if out is not None else Path("runs") / name / scale
        self.tasks = merged([task for experiment in self.experiments.values() for task in experiment.tasks(self.scale)])
        _check_folder(self.folder, scale)
        self._floor = Scheduler(self.folder, workers=min(cores, len(self.tasks)), slowness=slowness)

    @property
    def seconds(self) -> float:
        """About how long what is left takes on this machine."""
        return self._floor.estimate(self.tasks)

    def run(self, callback: Callable[[Event], None] = lambda _: None) -> dict[str, Any]:
        """Do what is left, and make the table.

        Args:
            callback: Told what happens.

        Returns:
            ``{"paper", "scale", "experiments": {name: {"title", "rows": [...]}}}``; rows as `Row.as_json` has them.
        """
        results = self._floor.run(self.tasks, callback)
        rows = {
            name: {"title": experiment.title, "rows": [row.as_json() for row in _rows(experiment, self.scale, results)]}
            for name, experiment in self.experiments.items()
        }
        return {"paper": self.paper.name, "scale": self.scale.name, "experiments": rows}


def _rows(experiment: Experiment, scale: ExperimentScale, results: Mapping[str, Figures]) -> Sequence[Row]:
    rows = experiment.rows(scale, results)
    # At quick scale a number says that the machinery turns, not what the method is worth.
    return [replace(row, aim=None) for row in rows] if scale.quick else rows


def _check_folder(folder: Path, scale: str) -> None:
    """A folder belongs to one scale: tasks have the same names at both."""
    file = folder / "reproduction.json"
    if file.is_file():
        try:
            before = json.loads(file.read_text(encoding="utf-8"))["scale"]
        except (ValueError, TypeError, KeyError) as error:
            raise LimbeckError(
                f"{file} is damaged, so that nothing says at which scale the results beside it are; give another "
                f"""folder: --out; or, if you know it, write {{"scale": "quick"}} or {{"scale": "full"}} into it."""
            ) from error
        if before != scale:
            raise LimbeckError(
                f"{folder} holds results at scale {before!r}, not {scale!r}; give another folder: --out."
            )
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise LimbeckError(f"{folder} is not empty and holds no reproduction; give another folder: --out.")
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"scale": scale}), encoding="utf-8")


__all__ = ["PAPERS", "Event", "Paper", "Reproduction", "Task", "paper"]
