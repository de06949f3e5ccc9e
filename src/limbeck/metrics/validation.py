"""Selection of the rows that count, and checks that metrics have what they need."""

from __future__ import annotations

from collections.abc import Iterable
from functools import singledispatch
from typing import Any, Literal, cast

from jaxtyping import Float, Int
from torch import Tensor

from limbeck.batch import IGNORED
from limbeck.errors import LimbeckError
from limbeck.metrics.predictions import Predictions

Needed = Literal["labels", "teacher", "targets", "variance", "log_loss"]


@singledispatch
def valid_rows(predictions: Any, name: str, requires: tuple[Needed, ...]) -> Any:
    """Check what the metric `name` needs, and select the rows that count; no copy is made if all count.

    Raises:
        LimbeckError: If something is missing or invalid.
    """
    raise LimbeckError(
        f"The metric {name!r} is a function of Predictions(student, teacher, labels), of Estimates (regression) or of "
        f"MultiLabelPredictions; got a {type(predictions).__name__}."
    )


@valid_rows.register
def _(predictions: Predictions, name: str, requires: tuple[Needed, ...]) -> Predictions:
    student, teacher, labels = predictions
    require_fields(predictions, name, requires)
    if "teacher" in requires and teacher is not None and teacher.shape != student.shape:
        check_rows(name, len(student), teacher=teacher)
        raise LimbeckError(
            f"The metric {name!r} needs the same classes: the student has {student.shape[1]}, "
            f"the teacher {teacher.shape[1]}."
        )
    if "labels" in requires and labels is not None:
        check_rows(name, len(student), labels=labels)
        wrong = labels[((labels < 0) & (labels != IGNORED)) | (labels >= student.shape[1])]
        if len(wrong):
            raise LimbeckError(
                f"The metric {name!r} needs labels from 0 to {student.shape[1] - 1} (or {IGNORED} for none); "
                f"got {int(wrong[0])}."
            )
    return labeled_rows(predictions)


def labeled_rows(predictions: Predictions) -> Predictions:
    """Select the rows that have a label, if there are labels. If all rows have one, the tensors are not copied."""
    student, teacher, labels = predictions
    if labels is None or bool((counts := labels != IGNORED).all()):
        return predictions
    return Predictions(student[counts], None if teacher is None else teacher[counts], labels[counts])


def require_fields(predictions: Any, name: str, requires: Iterable[Needed]) -> None:
    """Check that predictions have what a metric needs.

    Raises:
        LimbeckError: If something is missing.
    """
    for needed in requires:
        if getattr(predictions, needed, None) is None:
            raise LimbeckError(f"The metric {name!r} needs {needed}, and these predictions have none.")


def check_rows(name: str, rows: int, **parts: Tensor) -> None:
    """Check that all parts have as many rows as the student's logits.

    Raises:
        LimbeckError: If a part has another number of rows.
    """
    for part, tensor in parts.items():
        if len(tensor) != rows:
            raise LimbeckError(f"The metric {name!r}: {rows} rows of the student's, and {len(tensor)} of {part}.")


def labels_of(predictions: Predictions) -> Int[Tensor, " n"]:
    """The labels, which are known to be there."""
    return cast(Tensor, predictions.labels).long()


def teacher_of(predictions: Predictions) -> Float[Tensor, "n classes"]:
    """The teacher's logits, which are known to be there."""
    return cast(Tensor, predictions.teacher)
