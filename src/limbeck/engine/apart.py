"""How do independent branches of a recipe run side by side?"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from limbeck.engine.folder import Folder
from limbeck.engine.record import Report
from limbeck.engine.setting import Setting
from limbeck.engine.workshop import Workshop
from limbeck.errors import LimbeckError
from limbeck.recipe import Apart, Recipe
from limbeck.sources import Source

if TYPE_CHECKING:
    from lightning_fabric import Fabric

States = dict[str, dict[str, Tensor]]


def run_apart(
    apart: Apart,
    key: str,
    models: Workshop,
    source: Source,
    setting: Setting,
    *,
    fabric: Fabric,
    folder: Folder,
) -> Iterator[Report]:
    """Run every branch, in processes of one thread each where there are cores, and bring their models back.

    Every branch begins from the models as they are now, and may train only its own. Each has a run folder of its own
    under ``branches/``, so a killed run takes up those that were not finished. One report is given for each branch
    when it is done.

    Raises:
        LimbeckError: If two branches train the same model.
    """
    trained = [_trained(branch) for branch in apart.branches]
    _check_disjoint(trained)
    for names in trained:
        for name in names:
            models[name]
    # Several processes would fight over one accelerator.
    cores = (setting.workers or os.cpu_count() or 1) if fabric.device.type == "cpu" else 1
    workers = min(cores, len(apart.branches))
    began = time.perf_counter()
    tasks = [
        _Task(branch, names, key, number, folder.path if folder.writes else None, fabric.device.type)
        for number, (branch, names) in enumerate(zip(apart.branches, trained, strict=True))
    ]
    for done, (task, states, last) in enumerate(
        _results(tasks, models, source, replace(setting, workers=1), workers), start=1
    ):
        for name, state in states.items():
            models[name].load_state_dict(state)
        seconds = time.perf_counter() - began
        yield last._replace(stage=f"{key} branch {task.number}", step=done, steps=len(tasks), seconds=seconds)


class _Task:
    """One branch, what it trains, and where it writes."""

    def __init__(
        self, branch: Recipe, trains: frozenset[str], key: str, number: int, folder: Path | None, device: str
    ) -> None:
        own = branch.ship if branch.ship != "student" or "student" in trains else min(trains)
        self.branch = Recipe(branch, ship=own)
        self.device = device
        self.trains = trains
        self.number = number
        self.folder = folder / "branches" / f"{key}-{number}" if folder is not None else None

    def run(self, models: Mapping[str, nn.Module], source: Source, setting: Setting) -> tuple[States, Report]:
        """Run the branch on one device, and return the states of the models that it trained."""
        from limbeck.engine.run import Run
        from limbeck.engine.setting import open_fabric

        seed = setting.seed * 1009 + self.number + 1
        fabric = open_fabric(precision=setting.precision, accelerator=self.device)
        run = Run(
            models, self.branch, source, setting=replace(setting, seed=seed), fabric=fabric,
            out=self.folder, resume=True,
        ).finish()  # fmt: skip
        states = {name: {k: v.cpu() for k, v in run.models[name].state_dict().items()} for name in self.trains}
        return states, _last(run.history)


def _results(
    tasks: list[_Task], models: Workshop, source: Source, setting: Setting, workers: int
) -> Iterator[tuple[_Task, States, Report]]:
    made = dict(models.made)
    if workers == 1:
        for task in tasks:
            states, last = task.run(made, source, setting)
            yield task, states, last
        return
    from joblib import Parallel, delayed

    found = Parallel(n_jobs=workers, return_as="generator_unordered")(
        delayed(_in_process)(task, made, source, setting) for task in tasks
    )
    yield from found


def _in_process(
    task: _Task, models: dict[str, nn.Module], source: Source, setting: Setting
) -> tuple[_Task, States, Report]:
    torch.set_num_threads(1)
    states, last = task.run(models, source, setting)
    return task, states, last


def _trained(branch: Recipe) -> frozenset[str]:
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


def _last(history: list[Report]) -> Report:
    if history:
        return history[-1]
    return Report("branch", 0, 0, 0, 0.0, {}, {}, {}, 0.0, 0.0, 0.0)
