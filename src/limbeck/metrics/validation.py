"""Which rows of predictions count, and whether they hold what a metric needs."""

from __future__ import annotations

from collections.abc import Iterable
from functools import singledispatch
from typing import Any, Literal, cast

from jaxtyping import Float, Int
from torch import Tensor

from limbeck.batch import IGNORED
from limbeck.errors import LimbeckError
from limbeck.metrics.predictions import Predictions

Needed = Literal["labels", "teacher", "targets", "variance"]


@singledispatch
def valid_rows(predictions: Any, name: str, requires: tuple[Needed, ...]) -> Any:
    """The rows that count, if they hold what the measure `name` needs; the very same tensors where all rows count.

    Raises:
        LimbeckError: Saying what is lacking or does not fit.
    """
    raise LimbeckError(
        f"The measure {name!r} is a function of Predictions(student, teacher, labels), of Estimates (regression) or of "
        f"MultiLabel; got a {type(predictions).__name__}."
    )


@valid_rows.register
def _(predictions: Predictions, name: str, requires: tuple[Needed, ...]) -> Predictions:
    student, teacher, labels = predictions
    require_fields(predictions, name, requires)
    if "teacher" in requires and teacher is not None and teacher.shape != student.shape:
        check_rows(name, len(student), teacher=teacher)
        raise LimbeckError(
            f"The measure {name!r} compares the same classes: the student has {student.shape[1]}, "
            f"the teacher {teacher.shape[1]}."
        )
    if "labels" in requires and labels is not None:
        check_rows(name, len(student), labels=labels)
        wrong = labels[((labels < 0) & (labels != IGNORED)) | (labels >= student.shape[1])]
        if len(wrong):
            raise LimbeckError(
                f"The measure {name!r} needs labels from 0 to {student.shape[1] - 1} (or {IGNORED} for none); "
                f"got {int(wrong[0])}."
            )
    return labeled_rows(predictions)


def labeled_rows(predictions: Predictions) -> Predictions:
    """The rows that have a label, if labels are known at all; the same tensors where all have."""
    student, teacher, labels = predictions
    if labels is None or bool((counts := labels != IGNORED).all()):
        return predictions
    return Predictions(student[counts], None if teacher is None else teacher[counts], labels[counts])


def require_fields(predictions: Any, name: str, requires: Iterable[Needed]) -> None:
    """Refuse predictions that lack what a measure needs.

    Raises:
        LimbeckError: Saying what.
    """
    for needed in requires:
        if getattr(predictions, needed, None) is None:
            raise LimbeckError(f"The measure {name!r} needs {needed}, and these predictions have none.")


def check_rows(name: str, rows: int, **parts: Tensor) -> None:
    """Refuse parts that have not one row for each of the student's.

    Raises:
        LimbeckError: Saying which.
    """
    for part, tensor in parts.items():
        if len(tensor) != rows:
            raise LimbeckError(f"The measure {name!r}: {rows} rows of the student's, and {len(tensor)} of {part}.")


def labels_of(predictions: Predictions) -> Int[Tensor, " n"]:
    """The labels, which are known to be there."""
    return cast(Tensor, predictions.labels).long()


def teacher_of(predictions: Predictions) -> Float[Tensor, "n classes"]:
    """The teacher's logits, which are known to be there."""
    return cast(Tensor, predictions.teacher)
