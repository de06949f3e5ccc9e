"""A method as data: stages, optimizers, recipes."""

from limbeck.recipe.change import change_stages, rounds
from limbeck.recipe.context import RunContext, output_shapes, run_context, teacher_module
from limbeck.recipe.optimizer import Optimizer
from limbeck.recipe.stages import (
    JointStages,
    ModelFactory,
    Models,
    ParallelStages,
    Part,
    Recipe,
    Ship,
    Stage,
    TransformModel,
)

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
    "TransformModel",
    "change_stages",
    "output_shapes",
    "rounds",
    "run_context",
    "teacher_module",
]
