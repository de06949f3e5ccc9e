"""`open_stage`: one stage without a run, for code that looks at it or trains it itself."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from limbeck.batch import Batch
from limbeck.data import Loader
from limbeck.engine.stage_trainer import StageTrainer
from limbeck.engine.train_config import Fabric, TrainConfig, open_fabric
from limbeck.recipe import Stage


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
    """Open one stage, for code that looks at it or trains it step by step without a run.

    Use it in a ``with`` block. At its beginning the teacher is opened, one batch is sent forward and backward, heads
    get their shapes, and the optimizer is made; at its end hooks, modes and gradients are as before.

    Args:
        stage: The stage.
        models: Models by name: the one that learns, and those that the teacher names.
        loader: The loader, unless the stage has its own.
        config: The settings of a run; by default those of `distill`.
        fabric: Device and precision; by default one device in 32 bits.
        batch: The batch to try; by default the next one of the loader.
        single: Whether to try a batch of one example too, which BatchNorm cannot train on.

    Example:
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
    config, loader = config or TrainConfig(), stage.loader or loader
    fabric = fabric or open_fabric(precision=config.precision)
    loader.bind(models)
    first = loader.peek() if batch is None else batch
    first = first.to(fabric.device)
    return StageTrainer(stage, models, setting=config, fabric=fabric, loader=loader, batch=first, single=single)
