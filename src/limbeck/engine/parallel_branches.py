"""Independent branches of a recipe, trained in parallel."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.checksums import read_lines
from limbeck.data import Loader
from limbeck.engine.checkpoint import clone_state, to_device
from limbeck.engine.recipe_runner import RunModels
from limbeck.engine.run_folder import RunFolder
from limbeck.engine.step_report import StepReport
from limbeck.engine.train_config import Fabric, TrainConfig, open_fabric
from limbeck.errors import LimbeckError
from limbeck.random_seeds import derive_seed
from limbeck.recipe import ParallelStages, Part, Recipe, TransformModel
from limbeck.task_runner import WorkItem, check_backend, run_tasks

CPU = torch.device("cpu")
States = dict[str, dict[str, Tensor]]


class ParallelBranches:
    """Runs the branches of a part in parallel processes with one thread each.

    Each branch starts from the same models and trains only its own; the trained weights are loaded when all are done.
    Each has its own run folder under ``branches/``, so a resumed run continues with the unfinished branches. One report
    is yielded per branch, in order.

    Args:
        apart: The part with the branches.
        key: Position of the part in the recipe.
        models: The run's models.
        loader: The run's loader; its position is restored afterwards.
        setting: The settings of the run.
        fabric: The device.
        folder: The run's folder.
        make_run: The class `Run`, passed as an argument because its module imports this one.

    Raises:
        LimbeckError: If two branches train the same model, or the models that a branch trains are not known in advance.
    """

    def __init__(
        self,
        apart: ParallelStages,
        key: str,
        models: RunModels,
        loader: Loader,
        setting: TrainConfig,
        *,
        fabric: Fabric,
        folder: RunFolder,
        make_run: Callable[..., Any],
    ) -> None:
        trained = [_trained_models(branch) for branch in apart.branches]
        _check_disjoint(trained)
        for names in trained:
            for name in names:
                models[name]
        self._key = key
        self._models = models
        self._loader = loader
        self._setting = setting
        # Several processes would compete for one accelerator.
        self._cores = (setting.workers or os.cpu_count() or 1) if fabric.device.type == "cpu" else 1
        self._tasks = [
            _Task(branch, names, key, number, folder.path if folder.writes else None, fabric.device.type, make_run)
            for number, (branch, names) in enumerate(zip(apart.branches, trained, strict=True))
        ]
        self._finished: list[States] = []

    def __call__(self, state: Mapping[str, Any] | None) -> Iterator[StepReport]:
        """Run the unfinished branches, then load their weights into the models."""
        self._finished = list(state["branches"]) if state is not None else []
        began = time.perf_counter()
        for task, states, last in self._results(self._tasks[len(self._finished) :]):
            self._finished.append(states)
            name, seconds = f"{self._key} branch {task.number}", time.perf_counter() - began
            yield last._replace(
                stage=name, step=len(self._finished), steps=len(self._tasks), seconds=seconds, part=self._key, title=""
            )
        for states in self._finished:
            _load(self._models, states)

    def state_dict(self) -> dict[str, Any]:
        """The weights that the finished branches trained."""
        return {"branches": list(self._finished), "source": {}}

    def _results(self, tasks: list[_Task]) -> Iterator[tuple[_Task, States, StepReport]]:
        # A branch gets finished models, so the adaptors that models inherit are resolved here.
        setting = replace(self._setting, workers=1, adaptor=self._models.adaptors)
        models = dict(self._models.existing)
        workers = min(self._cores, len(tasks))
        if workers <= 1:
            for task in tasks:
                yield _in_place(task, models, self._loader, setting)
            return
        check_backend(workers)
        each = [WorkItem(str(one.number), partial(one.run, models, self._loader, setting)) for one in tasks]
        branches = {str(one.number): one for one in tasks}
        for finished, (states, last) in run_tasks(each, workers=workers, ordered=True):
            yield branches[finished.name], states, last


class _Task:
    """One branch, the models it trains, and its folder."""

    def __init__(
        self,
        branch: Recipe,
        trains: frozenset[str],
        key: str,
        number: int,
        folder: Path | None,
        device: str,
        make_run: Callable[..., Any],
    ) -> None:
        own = branch.ship if branch.ship != "student" or "student" in trains else min(trains)
        self.branch = Recipe(branch, ship=own)
        self.device = device
        self.make_run = make_run
        self.key = key
        self.trains = trains
        self.number = number
        self.folder = folder / "branches" / f"{key}-{number}" if folder is not None else None

    def run(self, models: Mapping[str, nn.Module], loader: Loader, setting: TrainConfig) -> tuple[States, StepReport]:
        """Run the branch on one device, and return the states of the models that it trained."""
        seed = derive_seed(setting.seed, f"branch {self.key}-{self.number}")
        fabric = open_fabric(precision=setting.precision, accelerator=self.device)
        run = self.make_run(
            models, self.branch, loader, setting=replace(setting, seed=seed), fabric=fabric,
            out=self.folder, resume=True,
        ).finish()  # fmt: skip
        states = {name: to_device(clone_state(dict(run.models[name].state_dict())), CPU) for name in self.trains}
        return states, run.history[-1] if run.history else _last_report(self.folder)


def _in_place(
    task: _Task, models: dict[str, nn.Module], loader: Loader, setting: TrainConfig
) -> tuple[_Task, States, StepReport]:
    """Run a branch in this process and restore models and loader afterwards."""
    before = {name: clone_state(dict(models[name].state_dict())) for name in task.trains}
    position = loader.state_dict() if loader.resumable else None
    try:
        states, last = task.run(models, loader, setting)
    finally:
        _load(models, before)
        if position is not None:
            loader.load_state_dict(position)
    return task, states, last


def _load(models: Mapping[str, nn.Module], states: States) -> None:
    for name, state in states.items():
        models[name].load_state_dict(state)


def _trained_models(branch: Recipe) -> frozenset[str]:
    if any(not isinstance(part, Part) for part in branch.parts):
        raise LimbeckError(
            "A branch joined by | contains a function, so the models it trains are not known in advance. Put "
            "the function "
            "before the branches: function >> (a | b), or let it return them."
        )
    if any(isinstance(part, TransformModel) for part in branch.parts):
        raise LimbeckError(
            "A branch joined by | changes the structure of a model, whose weights must fit it when the branch is done. "
            "Put TransformModel before or after the branches."
        )
    return frozenset(stage.trains for stage in branch.stages())


def _check_disjoint(trained: list[frozenset[str]]) -> None:
    seen: set[str] = set()
    for names in trained:
        if names & seen:
            raise LimbeckError(
                f"Branches joined by | are independent, and two of them train {sorted(names & seen)[0]!r}; "
                "let each train a model of its own, or join them by >> or &."
            )
        seen |= names


def _last_report(folder: Path | None) -> StepReport:
    """The last report of a branch that was finished before the run was resumed."""
    empty = StepReport("branch", 0, 0, 0, 0.0, {}, {}, {}, 0.0, 0.0, 0.0)
    file = folder / "metrics.jsonl" if folder is not None else None
    lines = read_lines(file).values if file is not None else []
    fields = {name: value for name, value in lines[-1].items() if name in empty._fields} if lines else {}
    return empty._replace(**fields)
