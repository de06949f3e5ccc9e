"""Who answers?"""

from limbeck.teachers.average import MovingAverage
from limbeck.teachers.coerce import as_teacher
from limbeck.teachers.ensemble import Ensemble
from limbeck.teachers.live import Live, Named
from limbeck.teachers.scikit import Scikit
from limbeck.teachers.teacher import Answer, Reads, Teacher, adaptor_of

__all__ = [
    "Answer",
    "Ensemble",
    "Live",
    "MovingAverage",
    "Named",
    "Reads",
    "Scikit",
    "Teacher",
    "adaptor_of",
    "as_teacher",
]
