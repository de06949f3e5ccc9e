"""Arms, seeds, statistics."""

from limbeck.compare.arms import ArmRun, Outcome
from limbeck.compare.consulting import checkup
from limbeck.compare.experiment import run_job
from limbeck.compare.ranks import leads
from limbeck.compare.tuning import tune
from limbeck.compare.verdict import Verdict, judge, set_beside
from limbeck.measure import Difference, paired_difference

__all__ = [
    "ArmRun",
    "Difference",
    "Outcome",
    "Verdict",
    "checkup",
    "judge",
    "leads",
    "paired_difference",
    "run_job",
    "set_beside",
    "tune",
]
