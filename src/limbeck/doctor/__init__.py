"""Checks of a job before training."""

from limbeck.doctor.context import (
    CheckContext,
    CheckedArm,
    Finding,
    crash,
    fail,
    finding_from_job_error,
    merged,
    passed,
    warn,
)
from limbeck.doctor.job_checks import ACCURACY as ACCURACY
from limbeck.doctor.run_checks import OF_JOB, OF_STAGE, examine
from limbeck.doctor.teacher_news import NEWS as NEWS

__all__ = [
    "ACCURACY",
    "NEWS",
    "OF_JOB",
    "OF_STAGE",
    "CheckContext",
    "CheckedArm",
    "Finding",
    "crash",
    "examine",
    "fail",
    "finding_from_job_error",
    "merged",
    "passed",
    "warn",
]
