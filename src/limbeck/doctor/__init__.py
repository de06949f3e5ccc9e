"""What would a job get wrong, found out before it is paid for?"""

from limbeck.doctor.accuracy import NAME as ACCURACY
from limbeck.doctor.examine import OF_JOB, OF_STAGE, examine
from limbeck.doctor.finding import Finding, look, merged, ok, wrong
from limbeck.doctor.patient import Arm, Patient

__all__ = ["ACCURACY", "OF_JOB", "OF_STAGE", "Arm", "Finding", "Patient", "examine", "look", "merged", "ok", "wrong"]
