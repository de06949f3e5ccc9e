"""Losses between student and teacher, which add and scale."""

from limbeck.losses.loss import Loss
from limbeck.losses.objective import LossTerm, Objective, Scaled, Sum, fit, weighted_loss
from limbeck.losses.state import memory_kept

__all__ = ["Loss", "LossTerm", "Objective", "Scaled", "Sum", "fit", "memory_kept", "weighted_loss"]
