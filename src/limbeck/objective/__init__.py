"""What does a stage minimise? Losses that add and scale."""

from limbeck.objective.algebra import Leaf, Objective, Scaled, Sum, fit, minimised
from limbeck.objective.loss import Loss
from limbeck.objective.memory import memory_kept

__all__ = ["Leaf", "Loss", "Objective", "Scaled", "Sum", "fit", "memory_kept", "minimised"]
