"""Comparisons: arms, seeds and the verdict of a job."""

from limbeck.compare.arms import ArmRun, Outcome
from limbeck.compare.experiment import run_job
from limbeck.compare.run_doctor import checkup
from limbeck.compare.students import run_students
from limbeck.compare.trackers import is_rank_zero
from limbeck.compare.tuning import tune
from limbeck.judging.verdict import Verdict, compare_with_baseline, compare_with_control
from limbeck.metrics import Difference, paired_difference

__all__ = [
    "ArmRun",
    "Difference",
    "Outcome",
    "Verdict",
    "checkup",
    "compare_with_baseline",
    "compare_with_control",
    "is_rank_zero",
    "paired_difference",
    "run_job",
    "run_students",
    "tune",
]
