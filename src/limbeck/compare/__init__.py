"""Comparisons: arms, seeds and the verdict of a job."""

from limbeck.compare.arms import ArmRun, Outcome
from limbeck.compare.experiment import run_job
from limbeck.compare.run_doctor import checkup
from limbeck.compare.trackers import is_rank_zero
from limbeck.compare.tuning import tune
from limbeck.compare.verdict import Verdict, judge, set_beside
from limbeck.metrics import Difference, paired_difference

__all__ = [
    "ArmRun",
    "Difference",
    "Outcome",
    "Verdict",
    "checkup",
    "is_rank_zero",
    "judge",
    "paired_difference",
    "run_job",
    "set_beside",
    "tune",
]
