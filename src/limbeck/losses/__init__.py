"""Losses between student and teacher, which add and scale."""

from limbeck.losses.copying import copy_objective, shared_parts
from limbeck.losses.distributed import all_gather, all_reduce_sum, all_reduce_tensor, rank_device, world_size
from limbeck.losses.hyper_gradient import hyper_gradient
from limbeck.losses.loss import Loss
from limbeck.losses.memory import FeatureQueue, RowIndex, RunningMean, preserved_state
from limbeck.losses.objective import (
    LossContext,
    LossTerm,
    Objective,
    Scaled,
    Sum,
    setup_objective,
    weighted_loss,
)
from limbeck.losses.row_loss import RowTerm
from limbeck.losses.selective_loss import SelectiveLoss

__all__ = [
    "FeatureQueue",
    "Loss",
    "LossContext",
    "LossTerm",
    "Objective",
    "RowIndex",
    "RowTerm",
    "RunningMean",
    "Scaled",
    "SelectiveLoss",
    "Sum",
    "all_gather",
    "all_reduce_sum",
    "all_reduce_tensor",
    "copy_objective",
    "hyper_gradient",
    "preserved_state",
    "rank_device",
    "setup_objective",
    "shared_parts",
    "weighted_loss",
    "world_size",
]
