"""Losses between student and teacher, which add and scale."""

from limbeck.losses.loss import Loss
from limbeck.losses.objective import LossTerm, Objective, Scaled, Sum, fit, weighted_loss
from limbeck.losses.state import preserved_state

__all__ = ["Loss", "LossTerm", "Objective", "Scaled", "Sum", "fit", "preserved_state", "weighted_loss"]
