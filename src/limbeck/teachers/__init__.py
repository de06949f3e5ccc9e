"""Who answers?"""

from limbeck.teachers.asking import asked_whole
from limbeck.teachers.average import MovingAverage
from limbeck.teachers.cached import Cached
from limbeck.teachers.coerce import as_teacher
from limbeck.teachers.displaced import Displaced
from limbeck.teachers.ensemble import Ensemble
from limbeck.teachers.filling import fill
from limbeck.teachers.groups import Groups, checked_groups, special_classes
from limbeck.teachers.live import Live, Named
from limbeck.teachers.rechecking import Recheck, recheck
from limbeck.teachers.recorded import Recorded
from limbeck.teachers.scikit import Scikit
from limbeck.teachers.specialists import Specialists
from limbeck.teachers.teacher import Answer, Reads, Stream, Teacher, adaptor_of, read_inputs

__all__ = [
    "Answer",
    "Cached",
    "Displaced",
    "Ensemble",
    "Groups",
    "Live",
    "MovingAverage",
    "Named",
    "Reads",
    "Recheck",
    "Recorded",
    "Scikit",
    "Specialists",
    "Stream",
    "Teacher",
    "adaptor_of",
    "as_teacher",
    "asked_whole",
    "checked_groups",
    "fill",
    "read_inputs",
    "recheck",
    "special_classes",
]
