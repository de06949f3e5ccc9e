"""What may stand where a teacher is asked for?"""

from __future__ import annotations

from typing import Any

from torch import nn

from limbeck.errors import LimbeckError
from limbeck.teachers.live import Live, Named
from limbeck.teachers.scikit import Scikit
from limbeck.teachers.teacher import Teacher


def as_teacher(value: Any) -> Teacher:
    """A teacher from what people have: a module, a fitted estimator, or the name of a model in the run.

    Raises:
        LimbeckError: If it is none of these.

    Example:
        >>> type(as_teacher(nn.Linear(2, 3))).__name__
        'Live'
    """
    if isinstance(value, Teacher):
        return value
    if isinstance(value, nn.Module):
        return Live(value)
    if isinstance(value, str):
        return Named(value)
    if hasattr(value, "predict_proba"):
        return Scikit(value)
    several = " Several answer as one by Ensemble(*members)." if isinstance(value, (list, tuple)) else ""
    raise LimbeckError(
        f"A {type(value).__name__} cannot teach; give a module, a fitted scikit-learn classifier, the name of a model "
        "in the run, or a limbeck Teacher (Live, Ensemble, Specialists, Recorded, Scikit, MovingAverage, "
        f"Named).{several}"
    )
