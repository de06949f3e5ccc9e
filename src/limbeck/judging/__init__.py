"""Judging predictions from anywhere: the interval, the verdict and the page, without a job."""

from limbeck.judging.judge import judge
from limbeck.judging.judgement import ArmScores, Comparison, Judgement
from limbeck.judging.scores import METRICS

__all__ = ["METRICS", "ArmScores", "Comparison", "Judgement", "judge"]
