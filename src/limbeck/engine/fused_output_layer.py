"""Decides whether a stage computes the student's logits, or its losses from the input of the output layer."""

from __future__ import annotations

import torch
from torch import nn

from limbeck.batch import LOGITS
from limbeck.engine.distributed import is_sharded
from limbeck.engine.recipe_runner import RunModels
from limbeck.engine.train_config import Fabric, TrainConfig
from limbeck.errors import LimbeckError
from limbeck.functional.output_layer import OutputLayer
from limbeck.model_call import find_output_layer, get_output_layer
from limbeck.recipe import Stage

FUSED_FROM = 8192
"""Number of classes from which the logits are not computed by default.

From here on a step of a small student takes 0.92 of the time and a third of the memory. With 1,000 classes it takes the
same time (`make bench NAME=lm_step`), and results should not change in their last digits for nothing.
"""


def fuses_output_layer(stage: Stage, models: RunModels, config: TrainConfig, fabric: Fabric) -> bool:
    """Whether the losses of a stage are computed without the student's logits, as far as it is known before a call.

    `Tapped` checks in its first call that the model's logits are those of its output layer.

    Args:
        stage: The stage.
        models: The models of the run.
        config: The settings of the run; `TrainConfig.fuse_output_layer` is the wish of the user.
        fabric: Device and strategy.

    Raises:
        LimbeckError: If the user wishes it and it is not possible.
    """
    choice, model = config.fuse_output_layer, models[stage.trains]
    layer = None if choice is False else get_output_layer(model)
    if choice is False or (choice == "auto" and (layer is None or len(layer.weight) < FUSED_FROM)):
        return False
    if is_sharded(fabric):
        reason: str | None = "a sharded strategy has the output layer in pieces; strategy='ddp' works"
    elif models.get_callable(stage.trains) is not model:
        reason = "the forward pass of a compiled model cannot end before its output layer; give the model itself"
    else:
        reason = _dense_reason(stage, model, layer, fabric.device)
    if choice is True and reason is not None:
        raise make_dense_error(stage, reason)
    return reason is None


def make_dense_error(stage: Stage, reason: str) -> LimbeckError:
    """The error for a stage that was to be fused and cannot be."""
    return LimbeckError(
        f"fuse_output_layer=True is not possible for {stage.trains!r}: {reason.rstrip('.')}. Leave it out, and the "
        "logits are computed."
    )


def _dense_reason(stage: Stage, model: nn.Module, layer: OutputLayer | None, device: torch.device) -> str | None:
    leaves = [leaf for leaf, _ in stage.objective.leaves() if LOGITS in leaf.requires.student]
    if not leaves:
        return "none of its losses reads the logits"
    if layer is None:
        named = find_output_layer(model)
        return "it has no linear layer" if named is None else f"its output layer {named[0]!r} is no plain linear layer"
    for leaf in leaves:
        if not leaf.takes_rows(len(layer.weight), device):
            return f"{leaf.name} reads the logits, and not only row by row"
    return None
