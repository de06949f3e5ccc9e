"""Converts what users pass as a teacher to a `Teacher`."""

from __future__ import annotations

from typing import Any

from torch import nn

from limbeck.errors import LimbeckError
from limbeck.teachers.model import ModelTeacher, TeacherRef
from limbeck.teachers.sklearn_teacher import SklearnTeacher
from limbeck.teachers.teacher import Teacher


def as_teacher(value: Any) -> Teacher:
    """A teacher from a module, a fitted estimator, or the name of a model in the run.

    Raises:
        LimbeckError: If it is none of these.

    Example:
        >>> type(as_teacher(nn.Linear(2, 3))).__name__
        'ModelTeacher'
    """
    if isinstance(value, Teacher):
        return value
    if isinstance(value, nn.Module):
        return ModelTeacher(value)
    if isinstance(value, str):
        return TeacherRef(value)
    if hasattr(value, "predict_proba"):
        return SklearnTeacher(value)
    several = " Combine several with Ensemble(*members)." if isinstance(value, (list, tuple)) else ""
    raise LimbeckError(
        f"A {type(value).__name__} cannot be a teacher. Pass a module, a fitted scikit-learn classifier, the name of a "
        "model in the run, or a limbeck Teacher (ModelTeacher, Ensemble, Specialists, PrecomputedTeacher, "
        f"SklearnTeacher, MovingAverage, TeacherRef).{several}"
    )
