"""Run a recipe."""

from limbeck.engine.record import Report, environment
from limbeck.engine.run import Run, distill
from limbeck.engine.setting import Setting, open_fabric

__all__ = ["Report", "Run", "Setting", "distill", "environment", "open_fabric"]
