"""The engine: runs a recipe on a student and data."""

from limbeck.engine.checkpoint import read_checkpoint
from limbeck.engine.distill import distill
from limbeck.engine.model_checks import check_class_order, check_shared, find_networks
from limbeck.engine.open_stage import build_shipped, make_models, open_stage, walk_recipe
from limbeck.engine.probe import Probe, first_line, objective_check, open_teacher, probe
from limbeck.engine.recipe_runner import RunModels
from limbeck.engine.run import Run
from limbeck.engine.stage_trainer import StageTrainer
from limbeck.engine.step_report import StepReport, environment
from limbeck.engine.student_module import StepInputs, StudentWithLoss, losses_with_memory
from limbeck.engine.trackers import TensorBoard, Tracker, track
from limbeck.engine.train_config import Fabric, TrainConfig, check_lengths, is_first_rank, open_fabric

__all__ = [
    "Fabric",
    "Probe",
    "Run",
    "RunModels",
    "StageTrainer",
    "StepInputs",
    "StepReport",
    "StudentWithLoss",
    "TensorBoard",
    "Tracker",
    "TrainConfig",
    "build_shipped",
    "check_class_order",
    "check_lengths",
    "check_shared",
    "distill",
    "environment",
    "find_networks",
    "first_line",
    "is_first_rank",
    "losses_with_memory",
    "make_models",
    "objective_check",
    "open_fabric",
    "open_stage",
    "open_teacher",
    "probe",
    "read_checkpoint",
    "track",
    "walk_recipe",
]
