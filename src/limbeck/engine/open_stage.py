"""`open_stage` and the models of a recipe, without a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from limbeck.batch import Batch
from limbeck.data import Loader
from limbeck.engine.recipe_runner import RecipeRunner, RunModels
from limbeck.engine.stage_loop import bind_loader
from limbeck.engine.stage_trainer import StageTrainer
from limbeck.engine.train_config import Fabric, TrainConfig, open_fabric
from limbeck.recipe import JointStages, ParallelStages, Recipe, RunContext, Stage


def open_stage(
    stage: Stage,
    models: Mapping[str, nn.Module],
    loader: Loader,
    config: TrainConfig | None = None,
    *,
    fabric: Fabric | None = None,
    batch: Batch | None = None,
    single: bool = False,
) -> StageTrainer:
    """Open one stage, to inspect it or to train it step by step without a run.

    Use it in a ``with`` block. At the start, the teacher is opened, one batch is sent forward and backward, heads get
    their shapes, and the optimizer is created. At the end, hooks, modes and gradients are restored.

    Args:
        stage: The stage.
        models: Models by name: the student, and those that the teacher refers to.
        loader: The loader, unless the stage has its own.
        config: The settings of a run; by default those of `distill`.
        fabric: Device and precision; by default one device in 32 bits.
        batch: The batch to try; by default the next one of the loader.
        single: Whether to try a batch of one example too, which BatchNorm cannot train on.

    Example:
        >>> from limbeck.batch import Progress
        >>> from limbeck.data import ArrayDataset, ShuffledLoader
        >>> from limbeck.functional import cross_entropy
        >>> from limbeck.losses import Loss
        >>> loader = ShuffledLoader(ArrayDataset(torch.randn(8, 4), torch.arange(8) % 3), batch_size=4)
        >>> with open_stage(Stage(Loss(cross_entropy)), {"student": nn.Linear(4, 3)}, loader) as trainer:
        ...     for step, batch in enumerate(loader):
        ...         trainer.step([batch], Progress(step, len(loader)))
        ...     trainer.tally.steps
        2
    """
    config, loader = config or TrainConfig(), stage.find_loader(loader)
    fabric = fabric or open_fabric(precision=config.precision)
    models = RunModels.of(models, config.adaptor)
    bind_loader(loader, models, [stage], fabric, preprocess=config.preprocess)
    with fabric.autocast():
        first = loader.complete((loader.peek() if batch is None else batch).to(fabric.device), used=False)
    return StageTrainer(stage, models, setting=config, fabric=fabric, loader=loader, batch=first, single=single)


def make_models(
    models: Mapping[str, nn.Module],
    recipe: Recipe,
    loader: Loader,
    config: TrainConfig | None = None,
    *,
    device: torch.device | str = "cpu",
) -> RunModels:
    """The models of a run of this recipe before training; those that the recipe creates are created on first use.

    Args:
        models: The existing models.
        recipe: The recipe.
        loader: The loader that is passed to functions in the recipe.
        config: The settings of the run.
        device: The device of its models.
    """
    config = config or TrainConfig()
    made = RunModels(models, recipe.makes, seed=config.seed, adaptor=config.adaptor)
    made.context = RunContext(loader, config.preprocess, torch.device(device), config.epochs, config.steps)
    return made


def walk_recipe(
    recipe: Recipe, models: RunModels, *, seed: int = 0
) -> Iterator[tuple[str, Stage | JointStages | ParallelStages]]:
    """The parts of a recipe in order, each with its key; functions in it are called when they are reached.

    Args:
        recipe: The recipe.
        models: The models from `make_models`.
        seed: The seed of the run.
    """
    return iter(RecipeRunner(recipe, models, seed=seed))


def build_shipped(recipe: Recipe, models: RunModels, *, seed: int = 0) -> nn.Module | None:
    """The model that a recipe ships, in its present state; None if it does not exist yet."""
    return models[recipe.ship] if isinstance(recipe.ship, str) else RecipeRunner(recipe, models, seed=seed).shipped()
