"""The engine: runs a recipe on a student and data."""

from limbeck.engine.distill import distill
from limbeck.engine.run import Run
from limbeck.engine.step_report import StepReport, environment
from limbeck.engine.trackers import TensorBoard, Tracker, track
from limbeck.engine.train_config import TrainConfig, is_first_rank, open_fabric

__all__ = [
    "Run",
    "StepReport",
    "TensorBoard",
    "Tracker",
    "TrainConfig",
    "distill",
    "environment",
    "is_first_rank",
    "open_fabric",
    "track",
]
