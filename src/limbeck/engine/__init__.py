"""The engine: runs a recipe on a student and data."""

from limbeck.engine.distill import distill
from limbeck.engine.open_stage import open_stage
from limbeck.engine.probe import open_teacher
from limbeck.engine.run import Run
from limbeck.engine.stage_trainer import StageTrainer
from limbeck.engine.step_report import StepReport, environment
from limbeck.engine.trackers import TensorBoard, Tracker, track
from limbeck.engine.train_config import TrainConfig, check_lengths, is_first_rank, open_fabric

__all__ = [
    "Run",
    "StageTrainer",
    "StepReport",
    "TensorBoard",
    "Tracker",
    "TrainConfig",
    "check_lengths",
    "distill",
    "environment",
    "is_first_rank",
    "open_fabric",
    "open_stage",
    "open_teacher",
    "track",
]
