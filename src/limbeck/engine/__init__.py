"""Run a recipe."""

from limbeck.engine.record import Report, environment
from limbeck.engine.run import Run
from limbeck.engine.setting import Setting, is_first_rank, open_fabric
from limbeck.engine.start import distill
from limbeck.engine.tracking import TensorBoard, Tracker, track

__all__ = [
    "Report",
    "Run",
    "Setting",
    "TensorBoard",
    "Tracker",
    "distill",
    "environment",
    "is_first_rank",
    "open_fabric",
    "track",
]
