"""A method as data: stages, optimizers, recipes."""

from limbeck.recipe.change import change_stages
from limbeck.recipe.context import RunContext, run_context
from limbeck.recipe.optimizer import Optimizer
from limbeck.recipe.stages import JointStages, ModelFactory, Models, ParallelStages, Part, Recipe, Ship, Stage

__all__ = [
    "JointStages",
    "ModelFactory",
    "Models",
    "Optimizer",
    "ParallelStages",
    "Part",
    "Recipe",
    "RunContext",
    "Ship",
    "Stage",
    "change_stages",
    "run_context",
]  # fmt: skip
