"""Starting a stage of a recipe, at a given position in the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from limbeck.data import Loader
from limbeck.engine.parallel_branches import ParallelBranches
from limbeck.engine.recipe_runner import RunModels
from limbeck.engine.run_folder import RunFolder
from limbeck.engine.stage_loop import StageLoop, reset_to_epoch_start
from limbeck.engine.train_config import Fabric, TrainConfig
from limbeck.recipe import JointStages, ParallelStages, Stage


def start_stage(
    part: Stage | JointStages | ParallelStages,
    key: str,
    models: RunModels,
    loader: Loader,
    setting: TrainConfig,
    *,
    fabric: Fabric,
    folder: RunFolder,
    only: bool,
    resumed: bool,
    make_run: Callable[..., Any],
) -> StageLoop | ParallelBranches:
    """Create the loop that runs a part of a recipe.

    Args:
        part: A stage, stages on one batch, or parallel branches.
        key: Position of the part in the recipe.
        models: The run's models.
        loader: The run's loader.
        setting: The settings of the run.
        fabric: Device, precision, strategy.
        folder: The run's folder.
        only: Whether the recipe has no other part; reports then omit the position.
        resumed: Whether the part was interrupted, so that its loader is at the right position.
        make_run: The class `Run`, which trains parallel branches.
    """
    if isinstance(part, ParallelStages):
        return ParallelBranches(part, key, models, loader, setting, fabric=fabric, folder=folder, make_run=make_run)
    stages = part.stages if isinstance(part, JointStages) else (part,)
    if not resumed:
        _start_epoch(stages, loader)
    name = " & ".join(stage.name or stage.trains for stage in stages)
    return StageLoop(stages, models, loader=loader, setting=setting, fabric=fabric, name=name, part="" if only else key)


def _start_epoch(stages: Sequence[Stage], run_loader: Loader) -> None:
    """Move the loader to the start of an epoch: the run's next, or the first of the stage's own loader."""
    loader = stages[0].loader or run_loader
    if not loader.resumable:
        return
    position = loader.state_dict()
    if loader is not run_loader:
        reset_to_epoch_start(loader, 0)
    elif position["batch"]:
        reset_to_epoch_start(loader, position["epoch"] + 1)
