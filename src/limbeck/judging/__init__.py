"""Judging predictions from anywhere: interval, verdict and page."""

from limbeck.judging.judge import judge
from limbeck.judging.judgment import ArmScores, Comparison, Judgment
from limbeck.judging.scores import METRICS

__all__ = ["METRICS", "ArmScores", "Comparison", "Judgment", "judge"]
